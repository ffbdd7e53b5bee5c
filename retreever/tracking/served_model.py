"""What MLflow runs when it loads a registered tree: models-from-code, so no pickle is involved.

MLflow executes this file; the bundle (safetensors, JSON, npy) lies among the model version's artifacts.
"""

from typing import Any

import mlflow
import pandas as pd
from mlflow.models import set_model

from retreever.bundle.retriever import Retreever


class RetreeverModel(mlflow.pyfunc.PythonModel):
    """Texts in, ids and scores out."""

    def load_context(self, context: Any) -> None:
        """Load the bundle: encoder, tree and index."""
        self.retreever = Retreever.load(context.artifacts["bundle"])

    def predict(self, context, model_input, params=None):
        """Search for each text. (No type hints: MLflow would read them as a schema.)

        Args:
            model_input: table with a column `query`.
            params: `k` passages for each query, at `level` (0: the finest).

        Returns:
            One row a query: `ids` and `scores`, best first.
        """
        asked = params or {}
        texts = [str(text) for text in model_input["query"]]
        found = self.retreever.search(texts, k=int(asked.get("k", 10)), level=int(asked.get("level", 0)) or None)
        return pd.DataFrame(
            {
                "ids": [[hit.id for hit in hits] for hits in found],
                "scores": [[float(hit.score) for hit in hits] for hits in found],
            }
        )


set_model(RetreeverModel())

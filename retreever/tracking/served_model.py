"""The code that MLflow executes when it loads a registered tree ("models from code", without pickle).

The bundle (safetensors, JSON, npy) is among the artifacts of the model version.
"""

from typing import Any

import mlflow
import pandas as pd
from mlflow.models import set_model

from retreever import Retreever


class RetreeverModel(mlflow.pyfunc.PythonModel):
    """Texts in, ids and scores out."""

    def load_context(self, context: Any) -> None:
        """Load the bundle: encoder, tree and index."""
        self.retreever = Retreever.load(context.artifacts["bundle"])

    def predict(self, context, model_input, params=None):
        """Search for each text. (No type hints: MLflow would read them as a schema.)

        Args:
            model_input: table with a column `query`.
            params: `k`, passages per query (default 10), `level` (default 0: the finest), and `hybrid`, as in
                `Retreever.search` (default "": as the model was trained for).

        Returns:
            One row a query: `ids` and `scores`, best first.
        """
        options = params or {}
        texts = [str(text) for text in model_input["query"]]
        k, level, hybrid = int(options.get("k", 10)), int(options.get("level", 0)), str(options.get("hybrid", ""))
        choice: Any = hybrid if hybrid in ("auto", "off", "rrf") else float(hybrid or 0)
        found = self.retreever.search(texts, k=k, level=level or None, hybrid=choice if hybrid else None)
        return pd.DataFrame(
            {
                "ids": [[hit.id for hit in hits] for hits in found],
                "scores": [[float(hit.score) for hit in hits] for hits in found],
            }
        )


set_model(RetreeverModel())

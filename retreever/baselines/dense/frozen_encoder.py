"""The frozen encoder as it is: cosine of pooled encodings at full width, without training."""

from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float, Int

from retreever.baselines import fitted_files
from retreever.baselines.baseline import Form
from retreever.baselines.dense.dense_baseline import DenseRanker
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.encoding.text_encodings import Encodings
from retreever.system.progress import Track, track_silently


class FrozenEncoder(DenseRanker):
    """Exhaustive cosine search in float32, float16 and int8. It learns nothing and has no settings."""

    name = "frozen"
    depends: ClassVar[tuple[str, ...]] = ()
    forms: tuple[Form, ...] = (Form(), Form(code="float16"), Form(code="int8"))

    @classmethod
    def for_config(cls, config: Config) -> Self:
        """Make the baseline; no setting of a tree changes it."""
        return cls()

    def fit(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Index the passages; nothing is learned."""
        self.index(data)

    def save(self, folder: Path) -> None:
        """Write a manifest to `folder`; there is nothing else to store."""
        fitted_files.save_fitted_files(folder, self.name, {})

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, instead of `fit`.

        Raises:
            BundleError: a file is missing or damaged, or the folder holds another baseline.
        """
        fitted_files.load_fitted_files(folder, self.name)

    def _compute_vectors(self, encodings: Encodings, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n dim"]:
        return encodings.last_layer[rows]

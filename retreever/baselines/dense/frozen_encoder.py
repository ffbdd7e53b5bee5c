"""The frozen encoder as it is: cosine of pooled encodings at full width. What training on top of it must improve."""

from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float, Int

from retreever.baselines import fitted_files
from retreever.baselines.baseline import Form
from retreever.baselines.dense.dense_baseline import Dense
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset, Encodings
from retreever.system.progress import Track, silent


class Frozen(Dense):
    """Exhaustive cosine search in float32, float16 and bytes; there is nothing to learn and nothing to choose."""

    name = "frozen"
    depends: ClassVar[tuple[str, ...]] = ()
    forms: tuple[Form, ...] = (Form(), Form(code="float16"), Form(code="int8"))

    @classmethod
    def for_config(cls, config: Config) -> Self:
        """The same for every configuration: there is no training."""
        return cls()

    def fit(self, data: EncodedDataset, track: Track = silent) -> None:
        """Hold the passages; nothing is learned."""
        self.index(data)

    def save(self, folder: Path) -> None:
        """Write to `folder` that there was nothing to learn."""
        fitted_files.save(folder, self.name, {})

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote.

        Raises:
            BundleError: a file is missing or damaged, or the folder holds another rival.
        """
        fitted_files.load(folder, self.name)

    def _vectors(self, encodings: Encodings, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n dim"]:
        return encodings.last[rows]

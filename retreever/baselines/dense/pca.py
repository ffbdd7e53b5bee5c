"""Principal components of the frozen encodings: the rival that shrinks them without looking at pairs.

Fitted on the texts of the train pairs. Chooses on dev how far components are scaled to equal spread.
"""

from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float, Int

from retreever.baselines import fitted_files
from retreever.baselines.baseline import PLAIN, Form, dev_ndcg, train_pairs
from retreever.baselines.dense.dense_baseline import Dense
from retreever.config import Config
from retreever.data.training_pairs import limit
from retreever.encoding.encoding_store import EncodedDataset, Encodings
from retreever.system.progress import Track, silent

WHITENING = (0.0, 0.25, 0.5, 1.0)


class PCA(Dense):
    """Cosine between the first components of centred encodings.

    Args:
        max_pairs: fit on the texts of at most this many train pairs, drawn by `seed`; None: all.

    Attributes:
        whitening: each component is divided by its standard deviation to this power: 0 keeps the spread, 1
            evens it.
    """

    name = "pca"
    depends: ClassVar[tuple[str, ...]] = ("data.max_pairs",)

    def __init__(self, seed: int = 0, max_pairs: int | None = None) -> None:
        self.seed, self.max_pairs, self.whitening = seed, max_pairs, 0.0

    @classmethod
    def for_config(cls, config: Config) -> Self:
        """With the pairs that a tree of this configuration is trained with."""
        return cls(max_pairs=config.data.max_pairs)

    @property
    def forms(self) -> tuple[Form, ...]:
        """Powers of two up to the number of components, from 16 where there are as many; valid after `fit`."""
        largest = len(self._deviations).bit_length() - 1
        sizes = [2**d for d in range(min(4, largest), largest + 1)]
        return tuple(Form(size, code) for code in (PLAIN, "int8") for size in sizes)

    def fit(self, data: EncodedDataset, track: Track = silent) -> None:
        """Components of the train texts; the whitening with the best NDCG@10 on dev, averaged over sizes."""
        from sklearn.decomposition import PCA as Components

        pairs = limit(train_pairs(data), self.max_pairs, self.seed)
        texts = [data.queries.last[np.unique(pairs[:, 0])], data.passages.last[np.unique(pairs[:, 1])]]
        fitted = Components(svd_solver="covariance_eigh").fit(np.concatenate(texts))
        self._mean, self._components = fitted.mean_, fitted.components_
        self._deviations = np.sqrt(np.maximum(fitted.explained_variance_, 1e-12))
        found = {}
        for self.whitening in track(WHITENING, "tuning pca", total=len(WHITENING)):
            self.index(data)
            found[self.whitening] = dev_ndcg(self, data)
        self.whitening = max(found, key=found.__getitem__)
        self.index(data)

    def save(self, folder: Path) -> None:
        """Write components and whitening to `folder`."""
        arrays = {"mean": self._mean, "components": self._components, "deviations": self._deviations}
        fitted_files.save(folder, self.name, {"whitening": self.whitening}, arrays)

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote.

        Raises:
            BundleError: a file is missing or damaged, or the folder holds another rival.
        """
        settings, arrays = fitted_files.load(folder, self.name)
        self.whitening = settings["whitening"]
        self._mean, self._components, self._deviations = (arrays[part] for part in ("mean", "components", "deviations"))

    def _vectors(self, encodings: Encodings, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n components"]:
        projected = (encodings.last[rows] - self._mean) @ self._components.T / self._deviations**self.whitening
        return projected.astype(np.float32)

"""Principal components of the frozen encodings: shorter vectors without learning from pairs.

Fitted on the texts of the train pairs; ignores which belong together. Chooses on dev how far components are whitened.
"""

from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float, Int

from retreever.baselines import fitted_files
from retreever.baselines.baseline import FLOAT32_CODE, Form, evaluate_on_dev, read_train_pairs
from retreever.baselines.dense.dense_baseline import DenseRanker
from retreever.config import Config
from retreever.data.training_pairs import limit_pairs
from retreever.encoding.encoding_store import EncodedDataset
from retreever.encoding.text_encodings import Encodings
from retreever.system.progress import Track, track_silently

WHITENING_GRID = (0.0, 0.25, 0.5, 1.0)


class PCA(DenseRanker):
    """Cosine between the first components of centred encodings.

    Args:
        max_pairs: fit on the texts of at most this many train pairs, drawn by `seed`; None: all.

    Attributes:
        whitening: power in [0, 1] of the standard deviation that divides each component; 0 leaves components as
            they are, 1 gives all of them equal variance.
    """

    name = "pca"
    depends: ClassVar[tuple[str, ...]] = ("data.max_pairs",)

    def __init__(self, seed: int = 0, max_pairs: int | None = None) -> None:
        self.seed, self.max_pairs, self.whitening = seed, max_pairs, 0.0

    @classmethod
    def for_config(cls, config: Config) -> Self:
        """Make the baseline with the pairs that a tree of this configuration is trained on."""
        return cls(max_pairs=config.data.max_pairs)

    @property
    def forms(self) -> tuple[Form, ...]:
        """Powers of two up to the number of components, from 16 where there are so many. Valid after `fit`."""
        largest = len(self._deviations).bit_length() - 1
        sizes = [2**d for d in range(min(4, largest), largest + 1)]
        return tuple(Form(size, code) for code in (FLOAT32_CODE, "int8") for size in sizes)

    def fit(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Fit components on the train texts; choose the whitening with the best dev NDCG@10, averaged over sizes."""
        from sklearn.decomposition import PCA as Components

        pairs = limit_pairs(read_train_pairs(data), self.max_pairs, self.seed)
        texts = [data.queries.last_layer[np.unique(pairs[:, 0])], data.passages.last_layer[np.unique(pairs[:, 1])]]
        fitted = Components(svd_solver="covariance_eigh").fit(np.concatenate(texts))
        self._mean, self._components = fitted.mean_, fitted.components_
        self._deviations = np.sqrt(np.maximum(fitted.explained_variance_, 1e-12))
        found = {}
        for self.whitening in track(WHITENING_GRID, "tuning pca", total=len(WHITENING_GRID)):
            self.index(data)
            found[self.whitening] = evaluate_on_dev(self, data)
        self.whitening = max(found, key=found.__getitem__)
        self.index(data)

    def save(self, folder: Path) -> None:
        """Write components and whitening to `folder`."""
        arrays = {"mean": self._mean, "components": self._components, "deviations": self._deviations}
        fitted_files.save_fitted_files(folder, self.name, {"whitening": self.whitening}, arrays)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, instead of `fit`.

        Raises:
            BundleError: a file is missing or damaged, or the folder holds another baseline.
        """
        settings, arrays = fitted_files.load_fitted_files(folder, self.name)
        self.whitening = settings["whitening"]
        self._mean, self._components, self._deviations = (arrays[part] for part in ("mean", "components", "deviations"))

    def _compute_vectors(self, encodings: Encodings, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n components"]:
        projected = (encodings.last_layer[rows] - self._mean) @ self._components.T / self._deviations**self.whitening
        return projected.astype(np.float32)

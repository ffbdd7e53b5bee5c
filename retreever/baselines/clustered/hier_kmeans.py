"""HIER-KMEANS: recursive spherical 2-means of the frozen encodings, all nodes of a level at once.

The log-odds of a split are the difference of the cosines to its two centroids, divided by the temperature.
"""

import numpy as np
import torch
from jaxtyping import Float

from retreever.baselines.clustered.clustered_tree import ClusteredTree
from retreever.model.rows.two_means import cluster_hierarchically
from retreever.system.progress import Track


class HierKMeans(ClusteredTree):
    """A clustered tree of spherical 2-means splits."""

    name = "hier_kmeans"
    temperatures = (0.02, 0.05, 0.1, 0.2, 0.4)

    def _fit_splits(self, passages: Float[np.ndarray, "passages dim"], track: Track) -> None:
        draw = torch.Generator().manual_seed(self.seed)
        levels = cluster_hierarchically(torch.from_numpy(np.ascontiguousarray(passages)), self.depth, draw)
        tracked = track(levels, f"clustering {self.name}, levels", total=self.depth)
        self._directions = np.concatenate([directions.numpy() for directions in tracked])

    def _odds(self, vectors: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n splits"]:
        return vectors @ self._directions.T

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"directions": self._directions}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self._directions = arrays["directions"]

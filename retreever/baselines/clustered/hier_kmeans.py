"""HIER-KMEANS: recursive spherical 2-means of the frozen encodings, all nodes of a level at once.

The log-odds of a split are the difference of the cosines to its two centroids, divided by the temperature.
"""

import numpy as np
from jaxtyping import Float, Int

from retreever.baselines.baseline import l2_normalize
from retreever.baselines.clustered.clustered_tree import ClusteredTree
from retreever.system.progress import Track

TWO_MEANS_ITERATIONS = 12  # of assignment and update


class HierKMeans(ClusteredTree):
    """A clustered tree of spherical 2-means splits."""

    name = "hier_kmeans"
    temperatures = (0.02, 0.05, 0.1, 0.2, 0.4)

    def _fit_splits(self, passages: Float[np.ndarray, "passages dim"], track: Track) -> None:
        draw = np.random.default_rng(self.seed)
        node = np.zeros(len(passages), np.int64)
        levels = []
        for level in track(range(self.depth), f"clustering {self.name}, levels", total=self.depth):
            directions = fit_two_means(passages, node, 2**level, draw)
            levels.append(directions)
            node = 2 * node + (_project_on_own_node(passages, directions, node) < 0)
        self._directions = np.concatenate(levels)

    def _odds(self, vectors: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n splits"]:
        return vectors @ self._directions.T

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"directions": self._directions}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self._directions = arrays["directions"]


def fit_two_means(
    vectors: Float[np.ndarray, "n dim"], node: Int[np.ndarray, " n"], nodes: int, draw: np.random.Generator
) -> Float[np.ndarray, "nodes dim"]:
    """Compute left centroid minus right centroid of every node; zero where a node has fewer than two points.

    Starts from a random member of the node and the member least similar to it.
    """
    from scipy.sparse import csr_matrix

    counts = np.bincount(node, minlength=nodes)
    starts = np.cumsum(counts) - counts
    members = np.argsort(node, kind="stable")
    first = members[np.minimum(starts + (draw.random(nodes) * counts).astype(np.int64), len(node) - 1)]
    least = np.lexsort((_project_on_own_node(vectors, vectors[first], node), node))
    second = least[np.minimum(starts, len(node) - 1)]
    left, right = vectors[first], vectors[second]
    for _ in range(TWO_MEANS_ITERATIONS):
        child = 2 * node + (_project_on_own_node(vectors, left - right, node) < 0)
        rows = (np.ones(len(node), np.float32), (child, np.arange(len(node))))
        sums = csr_matrix(rows, shape=(2 * nodes, len(node))) @ vectors
        empty = (np.bincount(child, minlength=2 * nodes) == 0)[:, None]
        centroids = l2_normalize(sums)
        left = np.where(empty[0::2], left, centroids[0::2])
        right = np.where(empty[1::2], right, centroids[1::2])
    return np.where((counts < 2)[:, None], 0, left - right).astype(np.float32)


def _project_on_own_node(vectors: np.ndarray, directions: np.ndarray, node: np.ndarray) -> Float[np.ndarray, " n"]:
    """Inner product of each vector with the direction of its own node."""
    return np.einsum("nd,nd->n", vectors, directions[node])

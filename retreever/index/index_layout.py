"""What an index holds: of which tree, in which form, and at which levels a bound is kept.

Vectors are kept in the form their similarity is computed in: probabilities for nTVD, their square roots for
Bhattacharyya, which is then an inner product.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from retreever.index.kernels.similarity_kernels import largest_bits, merge_rows
from retreever.model.tree import Tree
from retreever.system.threads import side_by_side

TOGETHER = 4_096  # rows that a thread checks at a time
MOST = 1 + 1e-4  # what a probability may be, having been summed in float32
SMALL = 6  # levels up to this one, of 64 nodes, are cheap enough to have a code each
FEW, FINER = 4, 8  # nTVD: levels up to this one have a code each, and the level that bounds all others


@dataclass(frozen=True)
class Layout:
    """What an index was built for.

    Attributes:
        exact_hierarchy: parents are sums of children, so that coarse levels need not be stored.
        model: digest of the tree whose probabilities it holds.
        dtype: of the stored vectors.
        compact: codes of the last level are kept and no vectors: search is by estimate, of that level alone.
    """

    depth: int
    similarity: Literal["ntvd", "bhattacharyya"]
    exact_hierarchy: bool
    model: str
    dtype: Literal["float32", "float16"] = "float32"
    compact: bool = False

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels that can be asked for: the last alone of a compact index."""
        return (self.depth,) if self.compact else tuple(range(1, self.depth + 1))

    @property
    def stored_levels(self) -> tuple[int, ...]:
        """Levels whose vectors codes are made of, and kept in full: the last where the others are sums of it."""
        return (self.depth,) if self.exact_hierarchy or self.compact else tuple(range(1, self.depth + 1))

    @property
    def coded_levels(self) -> tuple[int, ...]:
        """Levels with a code to bound similarities by.

        Without a hierarchy all; else the small ones, and for Bhattacharyya every second of the others up to the last.
        For nTVD the one of 256 nodes, whose first part is the one of 64 nodes, serves all others.

        >>> Layout(10, "bhattacharyya", True, "").coded_levels
        (1, 2, 3, 4, 5, 6, 8, 10)
        >>> Layout(10, "ntvd", True, "").coded_levels
        (1, 2, 3, 4, 8)
        """
        levels = range(1, self.depth + 1)
        if self.compact:
            return (self.depth,)
        if not self.exact_hierarchy:
            return tuple(levels)
        if self.similarity == "ntvd":
            return tuple(d for d in levels if d in (*range(1, FEW + 1), min(self.depth, FINER)))
        return tuple(d for d in levels if d <= SMALL or (self.depth - d) % 2 == 0)

    def coded(self, level: int) -> int:
        """The level whose code bounds similarities at `level`: itself, or the nearest coarser one that has one.

        >>> Layout(10, "bhattacharyya", True, "").coded(9)
        8
        >>> [Layout(10, "ntvd", True, "").coded(d) for d in (5, 6, 7)]
        [4, 8, 8]
        """
        if level not in self.coded_levels and self.similarity == "ntvd" and level >= SMALL:
            return max(self.coded_levels)
        return max(d for d in self.coded_levels if d <= level)

    def form(self, probabilities: Float[np.ndarray, "rows leaves"]) -> Float[np.ndarray, "rows leaves"]:
        """Probabilities in the form the similarity is computed in, float32."""
        values = np.ascontiguousarray(probabilities, np.float32)
        return np.sqrt(values) if self.similarity == "bhattacharyya" else values

    def probabilities(self, vectors: Float[np.ndarray, "rows leaves"]) -> Float[np.ndarray, "rows leaves"]:
        """The reverse of `form`."""
        return vectors * vectors if self.similarity == "bhattacharyya" else vectors

    def coarser(self, vectors: Float[np.ndarray, "rows leaves"], level: int) -> Float[np.ndarray, "rows nodes"]:
        """Vectors of a finer level, in stored form, summed to those of `level`."""
        if vectors.shape[1] == 2**level:
            return vectors
        merged = np.empty((len(vectors), 2**level), np.float32)
        self.merge(np.ascontiguousarray(vectors, np.float32), merged)
        return merged

    def merge(self, vectors: Float[np.ndarray, "rows leaves"], out: Float[np.ndarray, "rows nodes"]) -> None:
        """Write vectors of a finer level, in stored form, summed to those of the level that `out` is as wide as."""
        merge_rows(vectors, self.similarity == "bhattacharyya", out)


def shaped(nodes: Float[np.ndarray, "rows nodes"], depth: int, what: str) -> None:
    """Refuse what cannot be node probabilities in heap order.

    Raises:
        ValueError: rows of another length; the message names `what`.
    """
    tree = Tree(depth)
    if nodes.ndim != 2 or nodes.shape[1] != tree.nodes:
        raise ValueError(
            f"{what}: must be rows of {tree.nodes} node probabilities, got an array of shape {nodes.shape}"
        )


def are_probable(largest: np.uint32) -> bool:
    """Whether numbers with these largest bits are probabilities; a zero with a sign, which is one, is not told."""
    return bool(largest <= np.float32(MOST).view(np.uint32))


def checked(nodes: Float[np.ndarray, "rows nodes"], depth: int, what: str) -> np.ndarray:
    """Node probabilities in heap order.

    Raises:
        ValueError: rows of another length, or numbers that are no probabilities; the message names `what`.
    """
    shaped(nodes, depth, what)
    parts = [nodes[start : start + TOGETHER] for start in range(0, len(nodes), TOGETHER)]
    if not all(side_by_side(_probable, parts)):
        raise ValueError(f"{what}: probabilities must lie within [0, 1], got {nodes.min()} to {nodes.max()}")
    return nodes


def _probable(nodes: np.ndarray) -> bool:
    if are_probable(largest_bits(np.ascontiguousarray(nodes, np.float32))):
        return True
    return bool(nodes.min() >= 0 and nodes.max() <= MOST)  # false for NaN

"""The form of an index: its tree, its similarity, the levels stored in full and those with codes.

Vectors are stored in the form that their similarity is computed in: probabilities for nTVD, their square roots for
Bhattacharyya, which is then an inner product. Where and when they are stored is not known here.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from retreever.index.kernels.float16_kernels import find_largest_bits
from retreever.index.kernels.similarity_kernels import merge_rows
from retreever.model.tree import Tree
from retreever.system.threads import map_in_threads

CHECK_CHUNK_ROWS = 4_096  # rows that a thread checks at a time
LARGEST_PROBABILITY = 1 + 1e-4  # sums of probabilities in float32 may exceed 1 by so much
ALWAYS_CODED_LEVEL = 6  # levels up to this one, of 64 nodes, are cheap enough to have a code each
NTVD_ALWAYS_CODED_LEVEL = 4  # nTVD: levels up to this one have a code each
ENCODINGS = 0  # key under which vectors and codes of frozen encodings stand, beside those of levels
NTVD_SHARED_CODE_LEVEL = 8  # nTVD: the level whose code bounds all others


@dataclass(frozen=True)
class Layout:
    """The form of an index; every segment has it.

    Attributes:
        exact_hierarchy: parents are sums of children, so that coarse levels need not be stored.
        model: digest of the tree whose probabilities the index holds.
        dtype: of the stored vectors.
        compact: the index keeps codes of the last level and no vectors: search is by estimate, at that level only.
        encoding_dim: width of the frozen encodings that the index keeps for hybrid searches; 0: it keeps none.
    """

    depth: int
    similarity: Literal["ntvd", "bhattacharyya"]
    exact_hierarchy: bool
    model: str
    dtype: Literal["float32", "float16"] = "float32"
    compact: bool = False
    encoding_dim: int = 0

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels that can be searched; of a compact index, the last only."""
        return (self.depth,) if self.compact else tuple(range(1, self.depth + 1))

    @property
    def stored_levels(self) -> tuple[int, ...]:
        """Levels whose vectors are given and stored: the last where the others are sums of it, else all.

        A compact index makes codes of these vectors and drops them.
        """
        return (self.depth,) if self.exact_hierarchy or self.compact else tuple(range(1, self.depth + 1))

    @property
    def coded_levels(self) -> tuple[int, ...]:
        """Levels with a code that bounds similarities.

        Without an exact hierarchy, all. With one, the small levels and, for Bhattacharyya, every second level above
        them up to the last. For nTVD the code of 256 nodes, whose first part has 64 nodes, serves all larger levels.

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
            return tuple(
                d
                for d in levels
                if d in (*range(1, NTVD_ALWAYS_CODED_LEVEL + 1), min(self.depth, NTVD_SHARED_CODE_LEVEL))
            )
        return tuple(d for d in levels if d <= ALWAYS_CODED_LEVEL or (self.depth - d) % 2 == 0)

    @property
    def vector_widths(self) -> dict[int, int]:
        """Widths of the vectors that are given and stored, by level, and by `ENCODINGS` where the index keeps them."""
        return {d: 2**d for d in self.stored_levels} | ({ENCODINGS: self.encoding_dim} if self.encoding_dim else {})

    @property
    def code_keys(self) -> tuple[int, ...]:
        """The coded levels, then `ENCODINGS` where the index keeps them."""
        return (*self.coded_levels, ENCODINGS) if self.encoding_dim else self.coded_levels

    def find_code_level(self, level: int) -> int:
        """The level whose code bounds similarities at `level`: itself, or the nearest coarser level with a code.

        Under nTVD the code of 256 nodes serves levels from 6 on.

        >>> Layout(10, "bhattacharyya", True, "").find_code_level(9)
        8
        >>> [Layout(10, "ntvd", True, "").find_code_level(d) for d in (5, 6, 7)]
        [4, 8, 8]
        """
        if level not in self.coded_levels and self.similarity == "ntvd" and level >= ALWAYS_CODED_LEVEL:
            return max(self.coded_levels)
        return max(d for d in self.coded_levels if d <= level)

    def to_stored_form(self, probabilities: Float[np.ndarray, "rows leaves"]) -> Float[np.ndarray, "rows leaves"]:
        """Probabilities in stored form, float32: as they are for nTVD, their square roots for Bhattacharyya."""
        values = np.ascontiguousarray(probabilities, np.float32)
        return np.sqrt(values) if self.similarity == "bhattacharyya" else values

    def to_probabilities(self, vectors: Float[np.ndarray, "rows leaves"]) -> Float[np.ndarray, "rows leaves"]:
        """The inverse of `to_stored_form`."""
        return vectors * vectors if self.similarity == "bhattacharyya" else vectors

    def merge_to_level(self, vectors: Float[np.ndarray, "rows leaves"], level: int) -> Float[np.ndarray, "rows nodes"]:
        """Sum vectors of `level` or a finer one, in stored form, to vectors of `level`."""
        if vectors.shape[1] == 2**level:
            return vectors
        merged = np.empty((len(vectors), 2**level), np.float32)
        self.merge_into(np.ascontiguousarray(vectors, np.float32), merged)
        return merged

    def merge_into(self, vectors: Float[np.ndarray, "rows leaves"], out: Float[np.ndarray, "rows nodes"]) -> None:
        """Sum vectors in stored form to those of a coarser level, whose width `out` has, and write them there."""
        merge_rows(vectors, self.similarity == "bhattacharyya", out)


def scale_to_unit_length(encodings: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows dim"]:
    """Encodings of length one, float32; zeros stay zeros."""
    wide = np.asarray(encodings, np.float32)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), np.float32(1e-12))


def check_node_shape(nodes: Float[np.ndarray, "rows nodes"], depth: int, what: str) -> None:
    """Check that an array has one column a node of the tree.

    Raises:
        ValueError: it has another shape; the message names `what`.
    """
    tree = Tree(depth)
    if nodes.ndim != 2 or nodes.shape[1] != tree.nodes:
        raise ValueError(
            f"{what}: must be rows of {tree.nodes} node probabilities, got an array of shape {nodes.shape}"
        )


def are_probable(largest: np.uint32) -> bool:
    """Whether float32 numbers with this largest bit pattern are probabilities; a negative zero makes it false."""
    return bool(largest <= np.float32(LARGEST_PROBABILITY).view(np.uint32))


def check_nodes(nodes: Float[np.ndarray, "rows nodes"], depth: int, what: str) -> np.ndarray:
    """Check that rows are node probabilities in heap order, and return them.

    Raises:
        ValueError: rows of another length, or numbers outside [0, 1]; the message names `what`.
    """
    check_node_shape(nodes, depth, what)
    parts = [nodes[start : start + CHECK_CHUNK_ROWS] for start in range(0, len(nodes), CHECK_CHUNK_ROWS)]
    if not all(map_in_threads(_all_probable, parts)):
        raise ValueError(f"{what}: probabilities must lie within [0, 1], got {nodes.min()} to {nodes.max()}")
    return nodes


def _all_probable(nodes: np.ndarray) -> bool:
    if are_probable(find_largest_bits(np.ascontiguousarray(nodes, np.float32))):
        return True
    return bool(nodes.min() >= 0 and nodes.max() <= LARGEST_PROBABILITY)  # false for NaN

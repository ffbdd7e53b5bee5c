"""A code for nTVD: probabilities of at most 64 nodes, and of at most 256 nodes in bytes.

The former are rounded up to 1/32,000 and scanned; the latter refine the bounds of survivors.
Merging nodes can only raise a sum of minima (the data-processing inequality), so the sum at a coarse level bounds the
similarity there and at every finer level. Bytes are rounded to the nearest, since rounding up would cost a unit a node.
With p <= r + e for the passage and q <= r' + e' for the query, min(p, q) <= min(r, r') + e + e'. So the bound adds the
*excess* of both: what rounding took off, summed over nodes.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float, Int, UInt16

from retreever.index.codes.code_survival import SurvivalProbe
from retreever.index.codes.passage_code import (
    NOTHING_ADDED,
    ROUNDING_SLACK,
    UNMEASURED_SURVIVAL,
    CandidateBuffer,
    CodeUse,
    PackedCodes,
)
from retreever.index.kernels.similarity_kernels import BLOCK_PASSAGES, refine_probabilities, scan_probabilities

PROBABILITY_UNITS = 32_000  # units of probability 1: sums of minima fit 16 bits, with all rounding up
MAX_SCANNED_NODES = 64  # nodes that a scan reads, at most
COMPACT_SCANNED_NODES = 32  # the same in a compact index
MAX_BYTE_NODES = 256  # nodes stored in bytes, at most
LARGEST_BYTE = 255
UNIT_RANGE = 16  # ratio of the largest to the smallest byte unit tried


@dataclass(frozen=True)
class ProbabilityQueries:
    """Encoded queries, a row each.

    Attributes:
        units: probabilities in units, rounded up, uint16 (queries, nodes).
        bytes: probabilities in bytes, uint8 (queries, nodes); no columns where the query's level has no more nodes.
        excess: what rounding to bytes took off, (queries,).
    """

    units: np.ndarray
    bytes: np.ndarray
    excess: np.ndarray


class ProbabilityCode:
    """Probabilities of a level, merged to at most 64 nodes and, where the level has more, to at most 256.

    Attributes:
        unit: probability of one step of a byte, float64 ().
        nodes: nodes that are scanned, at most, int64 ().
        measured: `Survival.array` of the sample, float64 (3,).
    """

    files: ClassVar[tuple[str, ...]] = ("unit", "nodes", "measured")

    def __init__(self, unit: np.ndarray, nodes: np.ndarray, measured: np.ndarray = UNMEASURED_SURVIVAL):
        self.unit, self.nodes, self.measured = unit, nodes, measured

    @classmethod
    def fit(cls, sample: Float[np.ndarray, "rows nodes"], probe: SurvivalProbe, use: CodeUse = "last") -> Self:
        """Choose the byte unit with the least average excess over a sample of probabilities."""
        finer = _merge_to(sample, MAX_BYTE_NODES)
        largest = max(float(finer.max()), 1 / MAX_BYTE_NODES) / LARGEST_BYTE
        tried = largest * np.geomspace(1, 1 / UNIT_RANGE, 9)
        excess = [_quantize_to_bytes(finer, unit)[1].mean() for unit in tried]
        return cls(
            np.array(tried[int(np.argmin(excess))]),
            np.array(min(sample.shape[1], COMPACT_SCANNED_NODES if use == "alone" else MAX_SCANNED_NODES)),
        )

    def encode(self, vectors: Float[np.ndarray, "rows nodes"]) -> tuple[np.ndarray, np.ndarray]:
        """Units, then bytes, uint16 (rows, any), and the excess over the bytes, float32 (1, rows)."""
        if vectors.shape[1] <= self.nodes:
            return self._round_up_to_units(vectors), np.zeros((1, len(vectors)), np.float32)
        finer, excess = _quantize_to_bytes(_merge_to(vectors, MAX_BYTE_NODES), float(self.unit))
        return np.hstack([self._round_up_to_units(vectors), finer]), excess[None]

    def pack(
        self,
        digits: UInt16[np.ndarray, "rows any"],
        terms: Float[np.ndarray, "one rows"],
        rows: Int[np.ndarray, " places"],
    ) -> PackedCodes:
        """Units in blocks, bytes by place."""
        digits = digits[rows]
        nodes = min(digits.shape[1], int(self.nodes))
        blocks = np.ascontiguousarray(digits[:, :nodes].reshape(-1, BLOCK_PASSAGES, nodes).transpose(0, 2, 1))
        none = (np.empty((3, 0), np.uint8), np.empty(0, np.float32))
        lower = digits[:, nodes:].astype(np.uint8)
        return PackedCodes(blocks, lower, terms[0, rows], *none, blocks.mean(axis=2, dtype=np.float32))

    @property
    def bytes_scanned(self) -> float:
        """Bytes of the units."""
        return 2.0 * int(self.nodes)

    def encode_queries(self, vectors: Float[np.ndarray, "queries nodes"]) -> ProbabilityQueries:
        """Encode queries' probabilities of this level or another that this code serves."""
        if vectors.shape[1] <= self.nodes:
            return ProbabilityQueries(
                self._round_up_to_units(vectors), np.empty((len(vectors), 0), np.uint8), np.zeros(len(vectors))
            )
        finer, excess = _quantize_to_bytes(_merge_to(vectors, MAX_BYTE_NODES), float(self.unit))
        return ProbabilityQueries(self._round_up_to_units(vectors), finer, excess)

    def _round_up_to_units(self, vectors: np.ndarray) -> np.ndarray:
        return np.ceil(_merge_to(vectors, int(self.nodes)) * PROBABILITY_UNITS).astype(np.uint16)

    def score_blocks(self, queries: ProbabilityQueries, centres: np.ndarray) -> np.ndarray:
        """Sums of minima with the blocks' means."""
        wide = queries.units.astype(np.float32)
        return np.stack([np.minimum(own, centres).sum(axis=1) for own in wide]) / np.float32(PROBABILITY_UNITS)

    def scan(
        self,
        queries: ProbabilityQueries,
        codes: PackedCodes,
        alive: np.ndarray,
        order: np.ndarray,
        start: int,
        thresholds: np.ndarray,
        candidates: CandidateBuffer,
        added: np.ndarray = NOTHING_ADDED,
    ) -> int:
        """Bound by sums of minima of the scanned nodes; see `PassageCode.scan`."""
        own = (queries.units, np.float32((1 + ROUNDING_SLACK) / PROBABILITY_UNITS), thresholds)
        return int(scan_probabilities(codes.blocks, alive, order, start, *own, *candidates.kernel_arrays, added))

    def select_query(self, queries: ProbabilityQueries, query: int) -> ProbabilityQueries:
        """One of the queries."""
        return ProbabilityQueries(
            *(getattr(queries, name)[query : query + 1] for name in ProbabilityQueries.__match_args__)
        )

    def prepare_first_estimates(self, queries: ProbabilityQueries) -> ProbabilityQueries:
        """The queries themselves: the bound is the first estimate."""
        return queries

    def prepare_estimate_bounds(self, queries: ProbabilityQueries) -> ProbabilityQueries:
        """The queries themselves: the bound holds for estimates too."""
        return queries

    def bound_estimate_error(self, queries: ProbabilityQueries, codes: PackedCodes) -> np.ndarray:
        """Half a unit a node, which rounding to bytes may have added."""
        return np.full(len(queries.units), float(self.unit) / 2 * codes.lower.shape[1])

    def estimate(
        self,
        queries: ProbabilityQueries,
        codes: PackedCodes,
        candidates: CandidateBuffer,
        added: np.ndarray = NOTHING_ADDED,
    ) -> None:
        """Estimate by sums of minima of bytes."""
        if self._has_bytes(queries, codes):
            candidates.bounds[:, : candidates.counts.max(initial=0)] = np.inf
            constants, thresholds = (np.full(len(queries.bytes), value, np.float32) for value in (-1, -np.inf))
            self._refine_by_bytes(queries, codes, constants, np.float32(0), thresholds, candidates, added)

    def _has_bytes(self, queries: ProbabilityQueries, codes: PackedCodes) -> bool:
        """Whether code and queries both have bytes, of the same nodes."""
        return 0 < queries.bytes.shape[1] == codes.lower.shape[1]

    def decode(self, codes: PackedCodes, places: np.ndarray) -> np.ndarray:
        """Probabilities of the nodes stored in bytes or, where there are none, of the scanned nodes."""
        if codes.lower.shape[1]:
            return (codes.lower[places] * float(self.unit)).astype(np.float32)
        return (
            codes.blocks[places // BLOCK_PASSAGES, :, places % BLOCK_PASSAGES] / np.float32(PROBABILITY_UNITS)
        ).astype(np.float32)

    def refine(
        self,
        queries: ProbabilityQueries,
        codes: PackedCodes,
        thresholds: np.ndarray,
        candidates: CandidateBuffer,
        added: np.ndarray = NOTHING_ADDED,
    ) -> None:
        """Bound by bytes, where code and queries have them."""
        if self._has_bytes(queries, codes):
            constants = (queries.excess - 1 + ROUNDING_SLACK).astype(np.float32)
            self._refine_by_bytes(queries, codes, constants, np.float32(1), thresholds, candidates, added)

    def _refine_by_bytes(
        self,
        queries: ProbabilityQueries,
        codes: PackedCodes,
        constants: np.ndarray,
        excess_weight: np.float32,
        thresholds: np.ndarray,
        candidates: CandidateBuffer,
        added: np.ndarray,
    ) -> None:
        own = (queries.bytes, np.float32(self.unit), constants, excess_weight, thresholds)
        refine_probabilities(codes.lower, codes.base, *own, *candidates.kernel_arrays, added)


def _merge_to(vectors: np.ndarray, most: int) -> np.ndarray:
    """Merge probabilities to at most `most` nodes, float64."""
    nodes = min(vectors.shape[1], most)
    return np.asarray(vectors.reshape(len(vectors), nodes, -1).sum(axis=2, dtype=np.float64))


def _quantize_to_bytes(probabilities: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Bytes, and the excess of probabilities over them, float32, rounded up."""
    rounded = np.minimum(np.rint(probabilities / unit), LARGEST_BYTE)
    excess = np.maximum(probabilities - rounded * unit, 0).sum(axis=1)
    return rounded.astype(np.uint8), np.nextafter(excess.astype(np.float32), np.float32(np.inf))

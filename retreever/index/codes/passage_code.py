"""The interface of passage codes, which bound a passage's similarity to any query from above.

Which row lies at which place is the segment's choice, not known here.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

ROUNDING_SLACK = 2e-5  # more than the float32 rounding errors of a similarity and of a bound together
UNMEASURED_SURVIVAL = np.full(3, np.nan)
CodeUse = Literal["between", "last", "alone"]
"""The level that a code is for: one above the last, the last, or the last of a compact index, without vectors."""

NOTHING_ADDED = np.empty((1, 0), np.float32)
"""Scores to add to those of a segment's passages where there are none: an array without columns."""

CANDIDATE_CAPACITY = 16_384  # survivors of a query that a scan collects before it stops for them to be refined


@dataclass(frozen=True)
class PackedCodes:
    """Codes of the passages of a segment at one level, by place.

    Attributes:
        blocks: what a scan reads, one row a block of passages, (blocks, any).
        lower: what refining reads of a survivor, uint8 (places, any); no columns where all is in `blocks`.
        base: constant of a passage's bound, float32 (places,).
        residuals: lengths of what the code leaves of a passage, in `units`, uint8 (3, places); empty if not needed.
        units: float32 (3,); empty if not needed.
        centres: means of the blocks, float32 (blocks, any).
    """

    blocks: np.ndarray
    lower: np.ndarray
    base: np.ndarray
    residuals: np.ndarray
    units: np.ndarray
    centres: np.ndarray


class CandidateBuffer:
    """Survivors of several queries: their places, their bounds or estimates, and how many there are.

    Args:
        width: capacity for each query.

    Attributes:
        places, bounds: int32 and float32 (queries, width); kernels put rows and scores there in their turn.
        counts: int64 (queries,).
    """

    def __init__(self, queries: int, width: int = CANDIDATE_CAPACITY):
        self.places = np.empty((queries, width), np.int32)
        self.bounds = np.empty((queries, width), np.float32)
        self.counts = np.zeros(queries, np.int64)

    @property
    def kernel_arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The three arrays, in the order in which kernels take them."""
        return self.places, self.bounds, self.counts

    def copy_candidates(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """Copies of the places and bounds of one query."""
        count = self.counts[query]
        return self.places[query, :count].copy(), self.bounds[query, :count].copy()


class PassageCode(Protocol):
    """A way to bound similarities at a level. `queries` is always what `encode_queries` returns.

    Attributes:
        files: names of the attributes that are stored with an index.
        measured: `Survival.array` of the sample that the code was fitted to, float64 (3,).
    """

    files: ClassVar[tuple[str, ...]]
    measured: np.ndarray

    def encode(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Digits of vectors in stored form, (rows, any), and terms of their bounds, float32 (terms, rows).

        The vectors may be overwritten.
        """

    def pack(self, digits: np.ndarray, terms: np.ndarray, rows: np.ndarray) -> PackedCodes:
        """Arrange digits and terms in blocks; `rows` has the row at each place, of whole blocks."""

    @property
    def bytes_scanned(self) -> float:
        """Bytes of a passage that every scan reads."""

    def encode_queries(self, vectors: np.ndarray) -> Any:
        """Encode queries' vectors in stored form, (queries, nodes), of this level or another that this code serves."""

    def score_blocks(self, queries: Any, centres: np.ndarray) -> np.ndarray:
        """Average similarity of blocks to queries, up to a constant of the query: (queries, blocks)."""

    def scan(
        self,
        queries: Any,
        codes: PackedCodes,
        alive: np.ndarray,
        order: np.ndarray,
        start: int,
        thresholds: np.ndarray,
        candidates: CandidateBuffer,
        added: np.ndarray = NOTHING_ADDED,
    ) -> int:
        """Collect the living places whose bound reaches the query's threshold.

        Args:
            alive: by place, uint8 (places,).
            order: blocks to scan, int64: a row a query, where -1 is no block, or one row for all queries.
            start: column of `order` to begin at.
            thresholds: float32 (queries,).
            candidates: receives the survivors, after those that it holds already.
            added: added to the bounds, float32 (queries, places), or `NOTHING_ADDED`.

        Returns:
            The column of `order` at which the scan stopped, because the buffer might overflow; the end otherwise.
        """

    def select_query(self, queries: Any, query: int) -> Any:
        """One query of several."""

    def prepare_first_estimates(self, queries: Any) -> Any:
        """Queries with which a scan gives estimates instead of bounds."""

    def prepare_estimate_bounds(self, queries: Any) -> Any:
        """Queries with which a scan bounds estimates, up to `bound_estimate_error`."""

    def bound_estimate_error(self, queries: Any, codes: PackedCodes) -> np.ndarray:
        """By how much an estimate may exceed a bound from `prepare_estimate_bounds`, (queries,)."""

    def estimate(
        self, queries: Any, codes: PackedCodes, candidates: CandidateBuffer, added: np.ndarray = NOTHING_ADDED
    ) -> None:
        """Replace the candidates' values by the best estimates that the whole code gives.

        Args:
            queries: from `prepare_first_estimates` or `prepare_estimate_bounds`, as in the scan.
            added: as in the scan.
        """

    def decode(self, codes: PackedCodes, places: np.ndarray) -> np.ndarray:
        """Approximate vectors at some places, in stored form."""

    def refine(
        self,
        queries: Any,
        codes: PackedCodes,
        thresholds: np.ndarray,
        candidates: CandidateBuffer,
        added: np.ndarray = NOTHING_ADDED,
    ) -> None:
        """Tighten the candidates' bounds, and drop those that no longer reach their query's threshold.

        Args:
            added: as in the scan.
        """

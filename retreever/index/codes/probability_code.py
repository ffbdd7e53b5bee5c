"""A code for nTVD: probabilities of a level of at most 64 nodes, rounded up to 1/32,000; then of 256 nodes, in bytes.

Merging nodes can only raise a sum of minima (the data-processing inequality), so it bounds the similarity at that level
and at every finer one. Bytes are rounded to the nearest, since rounding up would cost a unit a node: with p <= r + e,
min(p, q) <= min(r, r') + e + e', so what was rounded off a passage and a query, summed over nodes, is added.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float, Int, UInt16

from retreever.index.codes.code_survival import Trial
from retreever.index.codes.passage_code import SLACK, UNMEASURED, Coded, Room, Use
from retreever.index.kernels.similarity_kernels import STRIP, refine_sums, scan_sums

UNITS = 32_000  # of nTVD probabilities: sums of minima fit 16 bits with all roundings up
NODES = 64  # at most so many are scanned
COMPACT = 32  # the same where nothing else is kept
FINER = 256  # nodes of the second code
BYTE = 255
FINEST = 16  # the smallest of the units tried is that part of the largest


@dataclass(frozen=True)
class AskedSums:
    """Queries' probabilities in units, rounded up; in bytes, and what was rounded off, where their level has them."""

    units: np.ndarray
    bytes: np.ndarray
    over: np.ndarray


class Sums:
    """Probabilities of a level, merged to at most 64 nodes and, where it has more, to at most 256.

    Attributes:
        unit: what a byte is worth, float64 ().
        nodes: at most so many are scanned, int64 ().
        measured: what it leaves of a sample, float64 (3,): see `Survival`.
    """

    files: ClassVar[tuple[str, ...]] = ("unit", "nodes", "measured")

    def __init__(self, unit: np.ndarray, nodes: np.ndarray, measured: np.ndarray = UNMEASURED):
        self.unit, self.nodes, self.measured = unit, nodes, measured

    @classmethod
    def fit(cls, sample: Float[np.ndarray, "rows nodes"], trial: Trial, use: Use = "last") -> Self:
        """The unit of bytes by which least is rounded off a sample of probabilities."""
        finer = _merged(sample, FINER)
        largest = max(float(finer.max()), 1 / FINER) / BYTE
        tried = largest * np.geomspace(1, 1 / FINEST, 9)
        lost = [_rounded(finer, unit)[1].mean() for unit in tried]
        return cls(
            np.array(tried[int(np.argmin(lost))]), np.array(min(sample.shape[1], COMPACT if use == "alone" else NODES))
        )

    def encode(self, vectors: Float[np.ndarray, "rows nodes"]) -> tuple[np.ndarray, np.ndarray]:
        """Units, then bytes, uint16 (rows, any), and what was rounded off the bytes, float32 (1, rows)."""
        if vectors.shape[1] <= self.nodes:
            return self._units(vectors), np.zeros((1, len(vectors)), np.float32)
        finer, over = _rounded(_merged(vectors, FINER), float(self.unit))
        return np.hstack([self._units(vectors), finer]), over[None]

    def coded(
        self,
        digits: UInt16[np.ndarray, "rows any"],
        terms: Float[np.ndarray, "one rows"],
        rows: Int[np.ndarray, " places"],
    ) -> Coded:
        """Units in strips, bytes by place."""
        digits = digits[rows]
        nodes = min(digits.shape[1], int(self.nodes))
        strips = np.ascontiguousarray(digits[:, :nodes].reshape(-1, STRIP, nodes).transpose(0, 2, 1))
        none = (np.empty((3, 0), np.uint8), np.empty(0, np.float32))
        lower = digits[:, nodes:].astype(np.uint8)
        return Coded(strips, lower, terms[0, rows], *none, strips.mean(axis=2, dtype=np.float32))

    @property
    def bytes_scanned(self) -> float:
        """Units."""
        return 2.0 * int(self.nodes)

    def ask(self, vectors: Float[np.ndarray, "queries nodes"]) -> AskedSums:
        """Queries' probabilities."""
        if vectors.shape[1] <= self.nodes:
            return AskedSums(self._units(vectors), np.empty((len(vectors), 0), np.uint8), np.zeros(len(vectors)))
        finer, over = _rounded(_merged(vectors, FINER), float(self.unit))
        return AskedSums(self._units(vectors), finer, over)

    def _units(self, vectors: np.ndarray) -> np.ndarray:
        return np.ceil(_merged(vectors, int(self.nodes)) * UNITS).astype(np.uint16)

    def likeness(self, asked: AskedSums, centres: np.ndarray) -> np.ndarray:
        """Sums of minima with the strips' means."""
        wide = asked.units.astype(np.float32)
        return np.stack([np.minimum(own, centres).sum(axis=1) for own in wide])

    def scan(
        self,
        asked: AskedSums,
        coded: Coded,
        alive: np.ndarray,
        order: np.ndarray,
        start: int,
        floors: np.ndarray,
        room: Room,
    ) -> int:
        """Bounds by sums of minima."""
        own = (asked.units, np.float32((1 + SLACK) / UNITS), floors)
        return int(scan_sums(coded.strips, alive, order, start, *own, *room.found))

    def one(self, asked: AskedSums, query: int) -> AskedSums:
        """One query of several."""
        return AskedSums(*(getattr(asked, name)[query : query + 1] for name in AskedSums.__match_args__))

    def guess(self, asked: AskedSums) -> AskedSums:
        """The same: the bound is the first estimate."""
        return asked

    def nearly(self, asked: AskedSums) -> AskedSums:
        """The same: the bound serves estimates too."""
        return asked

    def allowance(self, asked: AskedSums, coded: Coded) -> np.ndarray:
        """Half a unit a node, by which bytes may have been rounded up."""
        return np.full(len(asked.units), float(self.unit) / 2 * coded.lower.shape[1])

    def estimates(self, asked: AskedSums, coded: Coded, room: Room) -> None:
        """Sums of minima of bytes."""
        if self._has_bytes(asked, coded):
            room.bounds[:, : room.counts.max(initial=0)] = np.inf
            constants, floors = (np.full(len(asked.bytes), value, np.float32) for value in (-1, -np.inf))
            self._by_bytes(asked, coded, constants, np.float32(0), floors, room)

    def _has_bytes(self, asked: AskedSums, coded: Coded) -> bool:
        """Whether the code has bytes, and of the nodes of the query's level."""
        return 0 < asked.bytes.shape[1] == coded.lower.shape[1]

    def decoded(self, coded: Coded, places: np.ndarray) -> np.ndarray:
        """Probabilities of the nodes there are bytes of, or of those that are scanned."""
        if coded.lower.shape[1]:
            return (coded.lower[places] * float(self.unit)).astype(np.float32)
        return (coded.strips[places // STRIP, :, places % STRIP] / np.float32(UNITS)).astype(np.float32)

    def refine(self, asked: AskedSums, coded: Coded, floors: np.ndarray, room: Room) -> None:
        """Bounds by bytes, where the code and the query's level have them."""
        if self._has_bytes(asked, coded):
            constants = (asked.over - 1 + SLACK).astype(np.float32)
            self._by_bytes(asked, coded, constants, np.float32(1), floors, room)

    def _by_bytes(
        self, asked: AskedSums, coded: Coded, constants: np.ndarray, rest: np.float32, floors: np.ndarray, room: Room
    ) -> None:
        own = (asked.bytes, np.float32(self.unit), constants, rest, floors)
        refine_sums(coded.lower, coded.base, *own, *room.found)


def _merged(vectors: np.ndarray, most: int) -> np.ndarray:
    """Probabilities of at most so many nodes, float64."""
    nodes = min(vectors.shape[1], most)
    return np.asarray(vectors.reshape(len(vectors), nodes, -1).sum(axis=2, dtype=np.float64))


def _rounded(probabilities: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Bytes, and by how much probabilities exceed them, float32, never less."""
    rounded = np.minimum(np.rint(probabilities / unit), BYTE)
    over = np.maximum(probabilities - rounded * unit, 0).sum(axis=1)
    return rounded.astype(np.uint8), np.nextafter(over.astype(np.float32), np.float32(np.inf))

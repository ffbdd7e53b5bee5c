"""A code for nTVD: probabilities of a level of at most 64 nodes, rounded up to 1/32,000; then of 256 nodes, in bytes.

Merging nodes can only raise a sum of minima (the data-processing inequality), so it bounds the similarity at that level
and at every finer one. Bytes are rounded to the nearest, since rounding up would cost a unit a node: with p <= r + e,
min(p, q) <= min(r, r') + e + e', so what was rounded off a passage and a query, summed over nodes, is added.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float, UInt16

from retreever.index.codes import SLACK, Coded, Found, Room
from retreever.index.kernels import STRIP, refine_sums, scan_sums

UNITS = 32_000  # of nTVD probabilities: sums of minima fit 16 bits with all roundings up
NODES = 64  # at most so many are scanned
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
    """

    files: ClassVar[tuple[str, ...]] = ("unit",)

    def __init__(self, unit: np.ndarray):
        self.unit = unit

    @classmethod
    def fit(cls, sample: Float[np.ndarray, "rows nodes"]) -> Self:
        """The unit of bytes by which least is rounded off a sample of probabilities."""
        finer = _merged(sample, FINER)
        largest = max(float(finer.max()), 1 / FINER) / BYTE
        tried = largest * np.geomspace(1, 1 / FINEST, 9)
        lost = [_rounded(finer, unit)[1].mean() for unit in tried]
        return cls(np.array(tried[int(np.argmin(lost))]))

    def encode(self, vectors: Float[np.ndarray, "rows nodes"]) -> tuple[np.ndarray, np.ndarray]:
        """Units, then bytes, uint16 (rows, any), and what was rounded off the bytes, float32 (1, rows)."""
        if vectors.shape[1] <= NODES:
            return _units(vectors), np.zeros((1, len(vectors)), np.float32)
        finer, over = _rounded(_merged(vectors, FINER), float(self.unit))
        return np.hstack([_units(vectors), finer]), over[None]

    def coded(self, digits: UInt16[np.ndarray, "places any"], terms: Float[np.ndarray, "one places"]) -> Coded:
        """Units in strips, bytes by place."""
        nodes = min(digits.shape[1], NODES)
        strips = np.ascontiguousarray(digits[:, :nodes].reshape(-1, STRIP, nodes).transpose(0, 2, 1))
        none = (np.empty((3, 0), np.uint8), np.empty(0, np.float32))
        lower = digits[:, nodes:].astype(np.uint8)
        return Coded(strips, lower, terms[0], *none, strips.mean(axis=2, dtype=np.float32))

    def scanned(self, coded: Coded) -> float:
        """Units."""
        return 2.0 * coded.strips.shape[1]

    def ask(self, vectors: Float[np.ndarray, "queries nodes"]) -> AskedSums:
        """Queries' probabilities."""
        if vectors.shape[1] <= NODES:
            return AskedSums(_units(vectors), np.empty((len(vectors), 0), np.uint8), np.zeros(len(vectors)))
        finer, over = _rounded(_merged(vectors, FINER), float(self.unit))
        return AskedSums(_units(vectors), finer, over)

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
        return int(scan_sums(coded.strips, alive, order, start, *own, room.places, room.bounds, room.counts))

    def guess(self, asked: AskedSums, query: int) -> AskedSums:
        """One query."""
        one = slice(query, query + 1)
        return AskedSums(asked.units[one], asked.bytes[one], asked.over[one])

    def refine(self, asked: AskedSums, query: int, coded: Coded, floor: np.float32, found: Found) -> Found:
        """Bounds by bytes, where the code and the query's level have them."""
        own = asked.bytes[query]
        if not len(own) or len(own) != coded.lower.shape[1]:
            return found
        constant = np.float32(asked.over[query] - 1 + SLACK)
        unit = np.float32(self.unit)
        return found.first(
            refine_sums(coded.lower, coded.base, own, unit, constant, floor, found.places, found.bounds)
        )


def _merged(vectors: np.ndarray, most: int) -> np.ndarray:
    """Probabilities of at most so many nodes, float64."""
    nodes = min(vectors.shape[1], most)
    return np.asarray(vectors.reshape(len(vectors), nodes, -1).sum(axis=2, dtype=np.float64))


def _units(vectors: np.ndarray) -> np.ndarray:
    return np.ceil(_merged(vectors, NODES) * UNITS).astype(np.uint16)


def _rounded(probabilities: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Bytes, and by how much probabilities exceed them, float32, never less."""
    rounded = np.minimum(np.rint(probabilities / unit), BYTE)
    over = np.maximum(probabilities - rounded * unit, 0).sum(axis=1)
    return rounded.astype(np.uint8), np.nextafter(over.astype(np.float32), np.float32(np.inf))

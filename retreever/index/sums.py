"""A code for nTVD: probabilities of a level of at most 64 nodes, rounded up to 1/32,000.

Merging nodes can only raise a sum of minima (the data-processing inequality), so
it bounds the similarity at that level and at every finer one.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float, UInt16

from retreever.index.codes import SLACK, Coded, Found, in_strips
from retreever.index.kernels import scan_sums

UNITS = 32_000  # of nTVD probabilities: sums of minima fit 16 bits with all roundings up
NODES = 64  # at most so many in a code of sums


@dataclass(frozen=True)
class AskedSums:
    """A query's probabilities in units, rounded up."""

    units: np.ndarray


class Sums:
    """Probabilities of a level, merged to at most 64 nodes."""

    files: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def fit(cls, sample: np.ndarray) -> Self:
        """Nothing is learned from the sample."""
        return cls()

    def encode(self, vectors: Float[np.ndarray, "rows nodes"]) -> tuple[np.ndarray, np.ndarray]:
        """Units, uint16 (rows, at most 64), and no terms."""
        return _units(vectors), np.empty((0, len(vectors)), np.float32)

    def coded(self, digits: UInt16[np.ndarray, "places nodes"], terms: np.ndarray) -> Coded:
        """Units in strips."""
        strips = in_strips(digits)
        none = (np.empty(0, np.float32), np.empty((3, 0), np.uint8), np.empty(0, np.float32))
        lower = np.empty((len(digits), 0), np.uint8)
        return Coded(strips, lower, *none, strips.mean(axis=2, dtype=np.float32))

    def ask(self, vector: Float[np.ndarray, " nodes"]) -> AskedSums:
        """A query's probabilities."""
        return AskedSums(_units(vector[None])[0])

    def likeness(self, asked: AskedSums, centres: np.ndarray) -> np.ndarray:
        """Sums of minima with the strips' means."""
        return np.asarray(np.minimum(asked.units.astype(np.float32), centres).sum(axis=1))

    def scan(
        self, asked: AskedSums, coded: Coded, order: np.ndarray, alive: np.ndarray, floor: np.float32, room: Found
    ) -> Found:
        """Bounds by sums of minima."""
        unit = np.float32((1 + SLACK) / UNITS)
        return room.first(scan_sums(coded.strips, order, alive, asked.units, unit, floor, room.places, room.bounds))

    def refine(self, asked: AskedSums, coded: Coded, floor: np.float32, found: Found) -> Found:
        """There is nothing finer to read."""
        return found


def _units(vectors: np.ndarray) -> np.ndarray:
    merged = vectors.reshape(len(vectors), min(vectors.shape[1], NODES), -1).sum(axis=2, dtype=np.float64)
    return np.ceil(merged * UNITS).astype(np.uint16)

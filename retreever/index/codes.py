"""What a code of passages is: something small that bounds their similarity to any query from above.

What is kept of one passage is a row here; which row lies at which place is the segment's business.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from retreever.index.kernels import STRIP

SLACK = 2e-5  # more than the float32 rounding of a similarity and of a bound together


@dataclass(frozen=True)
class Coded:
    """Codes of the passages of a segment at one level, by place.

    Attributes:
        strips: what a scan reads, (strips, bytes or nodes, STRIP).
        lower: what is read of the passages that remain, uint8 (places, dims / 2); no columns where all is in `strips`.
        base: what is added to a passage's bound, float32 (places,); empty where there is no such thing.
        beside: how much of a passage lies beside its code, in units, uint8 (3, places); likewise.
        units: what those units are, float32 (3,); likewise.
        centres: what each strip is on average, float32 (strips, any).
    """

    strips: np.ndarray
    lower: np.ndarray
    base: np.ndarray
    beside: np.ndarray
    units: np.ndarray
    centres: np.ndarray

    @property
    def scanned(self) -> int:
        """Bytes of a passage that every search reads."""
        places = len(self.strips) * STRIP
        return (self.strips.nbytes + self.base.nbytes) // places + (2 if self.beside.size else 0)


@dataclass
class Found:
    """Places whose bound reaches a floor, and their bounds; room for all places of a segment."""

    places: np.ndarray
    bounds: np.ndarray

    @classmethod
    def room(cls, places: int) -> Self:
        """Empty room for so many."""
        return cls(np.empty(places, np.int32), np.empty(places, np.float32))

    def first(self, count: int) -> Self:
        """The first so many."""
        return type(self)(self.places[:count], self.bounds[:count])


class Code(Protocol):
    """A way to bound similarities at a level."""

    files: ClassVar[tuple[str, ...]]

    def encode(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Digits of vectors in stored form, (rows, any), and the terms of their bounds, float32 (terms, rows)."""

    def coded(self, digits: np.ndarray, terms: np.ndarray) -> Coded:
        """Digits and terms, a row a place, laid in strips."""

    def ask(self, vector: np.ndarray) -> Any:
        """A query's vector at this level, ready for `likeness`, `scan` and `refine`."""

    def likeness(self, asked: Any, centres: np.ndarray) -> np.ndarray:
        """How alike strips are to a query on average, but for a constant: (strips,)."""

    def scan(
        self, asked: Any, coded: Coded, order: np.ndarray, alive: np.ndarray, floor: np.float32, room: Found
    ) -> Found:
        """The living places of some strips whose bound reaches the floor."""

    def refine(self, asked: Any, coded: Coded, floor: np.float32, found: Found) -> Found:
        """Those whose tighter bound reaches the floor still."""


def in_strips(rows: np.ndarray) -> np.ndarray:
    """(places, any) as (strips, any, STRIP)."""
    return np.ascontiguousarray(rows.reshape(-1, STRIP, rows.shape[1]).transpose(0, 2, 1))

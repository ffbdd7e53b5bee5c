"""What a code of passages is: something small that bounds their similarity to any query from above.

Which row lies at which place is the segment's business.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np

SLACK = 2e-5  # more than the float32 rounding of a similarity and of a bound together
UNMEASURED = np.full(3, np.nan)
Use = Literal["between", "last", "alone"]
"""What a code is for: a level above the last, the last, or the last with no vectors beside it."""

ROOM = 16_384  # places found for a query before they are looked at


@dataclass(frozen=True)
class Coded:
    """Codes of the passages of a segment at one level, by place.

    Attributes:
        strips: what a scan reads, (strips, any).
        lower: what is read of the passages that remain, uint8 (places, any); no columns where all is in `strips`.
        base: what is added to a passage's bound, float32 (places,).
        beside: how much of a passage lies beside its code, in units, uint8 (3, places); empty where there is none.
        units: what those units are, float32 (3,); likewise.
        centres: what each strip is on average, float32 (strips, any).
    """

    strips: np.ndarray
    lower: np.ndarray
    base: np.ndarray
    beside: np.ndarray
    units: np.ndarray
    centres: np.ndarray


@dataclass
class Found:
    """Places whose bound reaches a floor, and their bounds."""

    places: np.ndarray
    bounds: np.ndarray

    def first(self, count: int) -> Self:
        """The first so many."""
        return type(self)(self.places[:count], self.bounds[:count])

    def by_bound(self) -> Self:
        """The largest bound first."""
        order = np.argsort(-self.bounds)
        return type(self)(self.places[order], self.bounds[order])


class Room:
    """Room for what several queries find."""

    def __init__(self, queries: int):
        self.places = np.empty((queries, ROOM), np.int32)
        self.bounds = np.empty((queries, ROOM), np.float32)
        self.counts = np.zeros(queries, np.int64)

    def taken(self, query: int) -> Found:
        """What a query has found, which is then forgotten."""
        count, self.counts[query] = int(self.counts[query]), 0
        return Found(self.places[query, :count], self.bounds[query, :count])


class Code(Protocol):
    """A way to bound similarities at a level. `asked` is what `ask` returns, for one or several queries."""

    files: ClassVar[tuple[str, ...]]
    measured: np.ndarray

    def encode(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Digits of vectors in stored form, (rows, any), and the terms of their bounds, float32 (terms, rows).

        The vectors may be overwritten.
        """

    def coded(self, digits: np.ndarray, terms: np.ndarray, rows: np.ndarray) -> Coded:
        """Digits and terms laid in strips; `rows` are those of the places, of whole strips."""

    @property
    def bytes_scanned(self) -> float:
        """Bytes of a passage that every search reads."""

    def ask(self, vectors: np.ndarray) -> Any:
        """Queries' vectors, (queries, nodes), of this level or of one that has this code too."""

    def likeness(self, asked: Any, centres: np.ndarray) -> np.ndarray:
        """How alike strips are to queries on average, but for a constant: (queries, strips)."""

    def scan(
        self, asked: Any, coded: Coded, alive: np.ndarray, order: np.ndarray, start: int, floors: np.ndarray, room: Room
    ) -> int:
        """Put the living places of strips into `room` whose bound reaches the query's floor; where it stopped."""

    def one(self, asked: Any, query: int) -> Any:
        """One query of several."""

    def guess(self, asked: Any, query: int) -> Any:
        """One query, asked for first estimates instead of bounds."""

    def nearly(self, asked: Any) -> Any:
        """Queries asked for bounds of `estimates`, but for `allowance`."""

    def allowance(self, asked: Any, coded: Coded) -> np.ndarray:
        """By how much an estimate may exceed what a scan finds with `nearly`, (queries,)."""

    def estimates(self, asked: Any, query: int, coded: Coded, found: Found) -> Found:
        """The same places with the best estimate that the whole code gives; `asked` by `guess` or `nearly`."""

    def decoded(self, coded: Coded, places: np.ndarray) -> np.ndarray:
        """Nearly the vectors at some places, in stored form."""

    def refine(self, asked: Any, query: int, coded: Coded, floor: np.float32, found: Found) -> Found:
        """Those whose tighter bound reaches the floor still."""

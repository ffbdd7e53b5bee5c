"""What a code of passages is: something small that bounds their similarity to any query from above.

Which row lies at which place is the segment's business.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

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


class Room:
    """What several queries have found: places and their bounds, and how many there are.

    Args:
        width: room for so many a query.

    Attributes:
        places, bounds: int32 and float32 (queries, width).
        counts: int64 (queries,).
    """

    def __init__(self, queries: int, width: int = ROOM):
        self.places = np.empty((queries, width), np.int32)
        self.bounds = np.empty((queries, width), np.float32)
        self.counts = np.zeros(queries, np.int64)

    @property
    def found(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As the kernels take it."""
        return self.places, self.bounds, self.counts

    def taken(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """Copies of the places and bounds of a query."""
        count = self.counts[query]
        return self.places[query, :count].copy(), self.bounds[query, :count].copy()


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
        """Put the living places of strips into `room` whose bound reaches the query's floor; where it stopped.

        `order`, int64, has a row a query, where -1 is no strip, or one for all.
        """

    def one(self, asked: Any, query: int) -> Any:
        """One query of several."""

    def guess(self, asked: Any) -> Any:
        """Queries asked for first estimates instead of bounds."""

    def nearly(self, asked: Any) -> Any:
        """Queries asked for bounds of `estimates`, but for `allowance`."""

    def allowance(self, asked: Any, coded: Coded) -> np.ndarray:
        """By how much an estimate may exceed what a scan finds with `nearly`, (queries,)."""

    def estimates(self, asked: Any, coded: Coded, room: Room) -> None:
        """Give what was found the best estimate that the whole code gives; `asked` by `guess` or `nearly`."""

    def decoded(self, coded: Coded, places: np.ndarray) -> np.ndarray:
        """Nearly the vectors at some places, in stored form."""

    def refine(self, asked: Any, coded: Coded, floors: np.ndarray, room: Room) -> None:
        """Tighten the bounds of what was found; leave what reaches its floor still."""

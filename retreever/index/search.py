"""The exact best passages of a query, found by bounds (ours).

Strips of codes that are most alike the query are looked at first and their most promising passages scored, which
gives a floor: the k-th best similarity so far. Every other strip is scanned, and what cannot reach the floor is left.
The rest is bounded more tightly, sorted by bound, and scored until no bound reaches the k-th best. Nothing is
approximate: every passage left out has a bound below the k-th best score.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from retreever.index.codes import Code, Found
from retreever.index.kernels import STRIP, score_rows, score_while_needed
from retreever.index.layout import Layout
from retreever.index.segment import Segment

FIRST_STRIPS = 8  # of a segment, looked at before the others; then up to
SECOND_STRIPS = 64  # by a floor that is nearly the last; then the rest
FIRST_SCORED = 32  # of those, at least so many are scored, and three for each that is asked for
_own = threading.local()


@dataclass(frozen=True)
class Evidence:
    """Why no passage that was left out belongs to the answer.

    Attributes:
        level: of the code that all passages were bounded by.
        scanned, remained, refined, scored: passages bounded by the code, left by that bound, left by the tighter bound,
            and compared in full.
        bound: no passage that was not compared in full is more similar than this.
        kth: similarity of the last passage of the answer, at least `bound`; -inf where all passages are in it.
    """

    level: int
    scanned: int
    remained: int
    refined: int
    scored: int
    bound: float
    kth: float


@dataclass(frozen=True)
class View:
    """A segment and which of its passages count.

    Attributes:
        rows_alive: uint8 (rows,).
        places_alive: uint8 (places,).
    """

    segment: Segment
    rows_alive: np.ndarray
    places_alive: np.ndarray

    @classmethod
    def of(cls, segment: Segment, alive: np.ndarray | None = None) -> "View":
        """All passages of a segment, or those of which `alive`, bool (rows,), is true."""
        rows_alive = np.ones(len(segment), np.uint8) if alive is None else alive.astype(np.uint8)
        places = segment.rows >= 0
        return cls(segment, rows_alive, (rows_alive[segment.rows] * places).astype(np.uint8))


class Query:
    """One query at one level over some views; `answer` runs the whole search."""

    def __init__(self, vector: np.ndarray, level: int, k: int, layout: Layout, codes: Mapping[int, Code]):
        self.vector, self.level, self.layout = vector, level, layout
        self.coded = layout.coded(level)
        self.code: Any = codes.get(self.coded)  # none while all segments are small
        self.asked: Any = self.code and self.code.ask(layout.coarser(vector[None], self.coded)[0])
        self.best = np.full(k, -np.inf, np.float32)
        self.bound = -np.inf
        self.counts = {"scanned": 0, "remained": 0, "refined": 0, "scored": 0}
        self.kept: list[tuple[int, np.ndarray, np.ndarray]] = []

    def answer(self, views: Sequence[View]) -> tuple[list[tuple[int, int]], np.ndarray, Evidence]:
        """The best passages as (view, row), best first, and their scores."""
        coded = [(number, view) for number, view in enumerate(views) if view.segment.codes]
        for number, view in enumerate(views):
            if not view.segment.codes:
                self._score_rows(number, view.segment, np.flatnonzero(view.rows_alive))
        strips = [self._by_likeness(view) for _, view in coded]
        waiting = [self._first(*coded[i], strips[i][:FIRST_STRIPS]) for i in range(len(coded))]
        for start, end in pairwise((FIRST_STRIPS, SECOND_STRIPS, None)):
            for i, (number, view) in enumerate(coded):
                self._next(number, view, np.sort(strips[i][start:end]), waiting[i])
                waiting[i] = Found.room(0)
        hits, scores = self._ranked(views)
        return hits, scores, Evidence(self.coded, bound=float(self.bound), kth=float(self.best[0]), **self.counts)

    def _by_likeness(self, view: View) -> np.ndarray:
        """Strips of a view, the most alike first."""
        return np.argsort(-self.code.likeness(self.asked, view.segment.codes[self.coded].centres), kind="stable")

    def _first(self, number: int, view: View, strips: np.ndarray) -> Found:
        """Score the most promising passages of some strips; returns the others, with their bounds."""
        found = self._scan(view, strips, np.float32(-np.inf))
        several = max(FIRST_SCORED, 3 * len(self.best))
        by_bound = np.argsort(-found.bounds)
        top, others = by_bound[:several], by_bound[several:]
        left = Found(found.places[others], found.bounds[others])
        self._score_places(number, view.segment, found.places[top], found.bounds[top])
        return left

    def _next(self, number: int, view: View, strips: np.ndarray, waiting: Found) -> None:
        """Bound the passages of some strips, and score what the bounds do not rule out of them and of those waiting."""
        floor = self.best[0]
        near = waiting.bounds >= floor
        found = self._scan(view, strips, floor)
        found = Found(
            np.concatenate([waiting.places[near], found.places]), np.concatenate([waiting.bounds[near], found.bounds])
        )
        self.counts["remained"] += len(found.places)
        self._ruled_out(floor)
        found = self.code.refine(self.asked, view.segment.codes[self.coded], floor, found)
        self.counts["refined"] += len(found.places)
        by_bound = np.argsort(-found.bounds)
        self._score_places(number, view.segment, found.places[by_bound], found.bounds[by_bound])

    def _scan(self, view: View, strips: np.ndarray, floor: np.float32) -> Found:
        self.counts["scanned"] += len(strips) * STRIP
        coded = view.segment.codes[self.coded]
        return self.code.scan(self.asked, coded, strips, view.places_alive, floor, _room(len(view.segment.rows)))

    def _score_places(self, number: int, segment: Segment, places: np.ndarray, bounds: np.ndarray) -> None:
        self._score_rows(number, segment, segment.rows[places].astype(np.int64), bounds)

    def _score_rows(self, number: int, segment: Segment, rows: np.ndarray, bounds: np.ndarray | None = None) -> None:
        scores = np.empty(len(rows), np.float32)
        above = np.full(len(rows), np.inf, np.float32) if bounds is None else bounds
        done = score_while_needed(
            self.vector, *_arguments(segment, self.level, self.layout), rows, above, self.best, scores
        )
        if done < len(rows):
            self._ruled_out(above[done])
        self.counts["scored"] += done
        self.kept.append((number, rows[:done], scores[:done]))

    def _ruled_out(self, bound: float) -> None:
        self.bound = max(self.bound, float(bound))

    def _ranked(self, views: Sequence[View]) -> tuple[list[tuple[int, int]], np.ndarray]:
        """All passages as good as the k-th best, ties broken by id."""
        hits: list[tuple[float, str, int, int]] = []
        for number, rows, scores in self.kept:
            ids = views[number].segment.ids
            for i in np.flatnonzero(scores >= self.best[0]):
                hits.append((-float(scores[i]), ids[int(rows[i])], number, int(rows[i])))
        hits = sorted(hits)[: len(self.best)]
        return [(number, row) for _, _, number, row in hits], -np.array([hit[0] for hit in hits], np.float32)


def _arguments(segment: Segment, level: int, layout: Layout) -> tuple[np.ndarray, bool]:
    """A segment's vectors as the scoring kernels take them."""
    vectors = segment.at(level)
    return vectors.view(np.uint16) if vectors.dtype == np.float16 else vectors, layout.similarity == "bhattacharyya"


def every_score(vector: np.ndarray, level: int, segment: Segment, layout: Layout) -> np.ndarray:
    """Similarity of a query, in stored form, to every passage of a segment, float32 (rows,)."""
    scores = np.empty(len(segment), np.float32)
    score_rows(vector, *_arguments(segment, level, layout), np.arange(len(segment)), scores)
    return scores


def _room(places: int) -> Found:
    """Room for found places that this thread keeps for the next query."""
    room: Found | None = getattr(_own, "room", None)
    if room is None or len(room.places) < places:
        room = _own.room = Found.room(places)
    return room

"""The exact best passages of some queries, found by bounds (ours).

A good first floor comes from the strips of codes most alike a query: their passages are ranked by estimate, the most
promising compared in full, and the k-th best similarity is the floor. Then all strips are scanned, each read once for
all queries; what cannot reach a query's floor is left. The rest is bounded more tightly, sorted by bound, and scored
until no bound reaches the k-th best. Nothing is approximate: every passage left out has a bound below the k-th best
score.

Of a compact index the answer is the best by estimate instead, found in the same way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retreever.index.codes import SLACK, Code, Found, Room
from retreever.index.kernels import STRIP, keep_best, score_best_first, score_rows
from retreever.index.layout import Layout
from retreever.index.segment import Segment

GUESS_STRIPS = 24  # of all segments together, that the first floor comes from
GUESS_SCORED = 48  # of their passages, at least so many are scored, and three for each that is asked for


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


class Progress:
    """What is known of a query's answer so far.

    Attributes:
        floor: the k-th best similarity of all passages is no less.
        best: a heap of the k best similarities found, the least first; -inf where there are fewer.
        bound: no passage ruled out so far is more similar than this.
        kept: (view, rows, scores) of passages compared in full, as far as they may be among the best.
    """

    def __init__(self, k: int):
        self.floor = np.float32(-np.inf)
        self.best = np.full(k, -np.inf, np.float32)
        self.bound = -np.inf
        self.scanned = self.remained = self.refined = self.scored = 0
        self.kept: list[tuple[int, np.ndarray, np.ndarray]] = []

    def rule_out(self, bound: float) -> None:
        """Passages were left out whose similarity is no more than this."""
        self.bound = max(self.bound, float(bound))

    def raise_floor(self) -> None:
        """The k-th best of those found is a floor too."""
        self.floor = max(self.floor, self.best[0])

    def ranked(self, views: Sequence[View]) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and scores of the best, ties broken by id."""
        scores = np.concatenate([s for _, _, s in self.kept])
        numbers = np.concatenate([views[view].segment.numbers[rows] for view, rows, _ in self.kept])
        near = np.argsort(-scores, kind="stable")[: np.count_nonzero(scores >= self.best[0])]
        own = scores[near]
        if (own[1:] == own[:-1]).any():
            ids = [views[view].segment.ids[row] for view, rows, _ in self.kept for row in rows.tolist()]
            near = np.array(sorted(near.tolist(), key=lambda i: (-scores[i], ids[i])))
        near = near[: len(self.best)]
        return numbers[near], scores[near]


class Search:
    """Some queries at one level over some views; `answers` runs the whole search.

    Args:
        vectors: in stored form, (queries, nodes).
    """

    def __init__(
        self, vectors: np.ndarray, level: int, k: int, layout: Layout, codes: Mapping[int, Code], views: Sequence[View]
    ):
        self.vectors, self.level, self.layout, self.views = vectors, level, layout, views
        self.level_coded = layout.coded(level)
        self.code: Any = codes.get(self.level_coded)  # none while all segments are small
        self.asked: Any = self.code and self.code.ask(layout.coarser(vectors, min(level, self.level_coded)))
        if self.code and layout.compact:
            self.asked = self.code.nearly(self.asked)
        self.progress = [Progress(k) for _ in vectors]
        self.room = Room(len(vectors))

    def answers(self) -> list[tuple[np.ndarray, np.ndarray, Evidence]]:
        """Numbers, scores and evidence of every query, the best passage first."""
        coded = [number for number, view in enumerate(self.views) if view.segment.codes]
        for number, view in enumerate(self.views):
            if not view.segment.codes:
                rows = np.flatnonzero(view.rows_alive)
                for query in range(len(self.vectors)):
                    self._score(query, number, rows, np.full(len(rows), np.inf, np.float32))
        if coded:
            self._guess(coded)
        for number in coded:
            self._scan(number)
        return [(*own.ranked(self.views), self._evidence(own)) for own in self.progress]

    def _evidence(self, own: Progress) -> Evidence:
        counts = (own.scanned, own.remained, own.refined, own.scored)
        return Evidence(self.level_coded, *counts, bound=own.bound, kth=float(own.best[0]))

    def _coded(self, number: int) -> Any:
        return self.views[number].segment.codes[self.level_coded]

    def _guess(self, coded: Sequence[int]) -> None:
        """A floor for every query from the strips most alike it."""
        alike = [self.code.likeness(self.asked, self._coded(number).centres) for number in coded]
        starts = np.cumsum([0, *(part.shape[1] for part in alike)])
        every = np.hstack(alike)
        several = min(GUESS_STRIPS, every.shape[1])
        top = np.argpartition(-every, several - 1, axis=1)[:, :several]
        for query, strips in enumerate(top):
            promising = [
                self._promising(query, number, strips[(strips >= start) & (strips < end)] - start)
                for number, start, end in zip(coded, starts[:-1], starts[1:], strict=True)
            ]
            self._first_floor(query, coded, promising)

    def _promising(self, query: int, number: int, strips: np.ndarray) -> Found:
        """Passages of strips by estimate."""
        room, anything = Room(1), np.full(1, -np.inf, np.float32)
        alive = self.views[number].places_alive
        self.code.scan(self.code.guess(self.asked, query), self._coded(number), alive, strips, 0, anything, room)
        return room.taken(0)

    def _first_floor(self, query: int, coded: Sequence[int], promising: Sequence[Found]) -> None:
        """Score the passages with the largest estimates. They will be found again, so nothing but the floor is kept."""
        own = self.progress[query]
        k = len(own.best)
        estimates = np.concatenate([found.bounds for found in promising])
        several = min(len(estimates), max(GUESS_SCORED, 3 * k))
        if several < k:
            return
        least = np.partition(estimates, -several)[-several]
        heap = own.best.copy()
        for number, found in zip(coded, promising, strict=True):
            near = found.bounds >= least
            keep_best(self._scores(query, number, Found(found.places[near], found.bounds[near])), heap)
        own.scored += several
        own.floor = heap[0]

    def _scores(self, query: int, number: int, found: Found) -> np.ndarray:
        segment = self.views[number].segment
        if self.layout.compact:
            guess = self.code.guess(self.asked, query)
            return np.asarray(self.code.estimates(guess, 0, self._coded(number), found).bounds)
        rows = segment.rows[found.places].astype(np.int64)
        return some_scores(self.vectors[query], self.level, segment, self.layout, rows)

    def _scan(self, number: int) -> None:
        """Bound all passages of a view for all queries, and score what the bounds do not rule out."""
        view, coded = self.views[number], self._coded(number)
        order, start = np.arange(len(coded.strips)), 0
        while start < len(order):
            floors = np.array([own.floor for own in self.progress], np.float32)
            if self.layout.compact:
                floors -= self.code.allowance(self.asked, coded).astype(np.float32)
            stop = self.code.scan(self.asked, coded, view.places_alive, order, start, floors, self.room)
            for query, own in enumerate(self.progress):
                own.scanned += (stop - start) * STRIP
                settle = self._estimate if self.layout.compact else self._settle
                settle(query, number, self.room.taken(query))
            start = stop

    def _estimate(self, query: int, number: int, found: Found) -> None:
        """Rank what a query has found in a view by estimate."""
        own = self.progress[query]
        found = self.code.estimates(self.asked, query, self._coded(number), found)
        keep_best(found.bounds, own.best)
        near = found.bounds >= max(own.floor - np.float32(SLACK), own.best[0])
        rows = self.views[number].segment.rows[found.places[near]]
        own.kept.append((number, rows, found.bounds[near]))

    def _settle(self, query: int, number: int, found: Found) -> None:
        """Rule out or score what a query has found in a view."""
        own = self.progress[query]
        own.rule_out(float(own.floor))
        own.remained += len(found.places)
        found = self.code.refine(self.asked, query, self._coded(number), own.floor, found).by_bound()
        own.refined += len(found.places)
        self._score(query, number, self.views[number].segment.rows[found.places].astype(np.int64), found.bounds)

    def _score(self, query: int, number: int, rows: np.ndarray, above: np.ndarray) -> None:
        own = self.progress[query]
        scores = np.empty(len(rows), np.float32)
        vectors, roots = _arguments(self.views[number].segment, self.level, self.layout)
        done = score_best_first(self.vectors[query], vectors, roots, rows, above, own.floor, own.best, scores)
        if done < len(rows):
            own.rule_out(above[done])
        own.scored += done
        own.raise_floor()
        near = np.flatnonzero(scores[:done] >= own.floor)
        own.kept.append((number, rows[near], scores[near]))


def _arguments(segment: Segment, level: int, layout: Layout) -> tuple[np.ndarray, bool]:
    """A segment's vectors as the scoring kernels take them."""
    vectors = segment.at(level)
    return vectors.view(np.uint16) if vectors.dtype == np.float16 else vectors, layout.similarity == "bhattacharyya"


def every_score(vector: np.ndarray, level: int, segment: Segment, layout: Layout) -> np.ndarray:
    """Similarity of a query, in stored form, to every passage of a segment, float32 (rows,)."""
    return some_scores(vector, level, segment, layout, np.arange(len(segment)))


def some_scores(vector: np.ndarray, level: int, segment: Segment, layout: Layout, rows: np.ndarray) -> np.ndarray:
    """Similarity of a query, in stored form, to chosen rows, int64, of a segment, float32 (rows,)."""
    scores = np.empty(len(rows), np.float32)
    score_rows(vector, *_arguments(segment, level, layout), rows, scores)
    return scores

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

from retreever.index.codes.passage_code import SLACK, Code, Room
from retreever.index.index_layout import Layout
from retreever.index.kernels.similarity_kernels import STRIP, score_rows
from retreever.index.kernels.top_k_kernels import keep_found, pick, score_best_first
from retreever.index.segment import Segment, View

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


class Progress:
    """What is known of the answers to some queries so far.

    Attributes:
        floors: the k-th best similarity of all passages is no less, float32 (queries,).
        best: heaps of the k best similarities found, the least first, (queries, k); -inf where there are fewer.
        bounds: no passage ruled out so far is more similar than this, float32 (queries,).
        scanned, remained, refined, scored: as of `Evidence`, int64 (queries,).
        kept: of every query, (view, rows, scores) of passages compared in full, as far as they may be among the best.
    """

    def __init__(self, queries: int, k: int):
        self.floors, self.bounds = (np.full(queries, -np.inf, np.float32) for _ in range(2))
        self.best = np.full((queries, k), -np.inf, np.float32)
        self.scanned, self.remained, self.refined, self.scored = np.zeros((4, queries), np.int64)
        self.kept: list[list[tuple[int, np.ndarray, np.ndarray]]] = [[] for _ in range(queries)]

    def keep(self, view: int, room: Room) -> None:
        """What `room` has, as rows and similarities, may be among the best."""
        for kept, count, rows, scores in zip(self.kept, room.counts.tolist(), room.places, room.bounds, strict=True):
            if count:
                kept.append((view, rows[:count].copy(), scores[:count].copy()))

    def ranked(self, query: int, views: Sequence[View]) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and scores of the best, ties broken by id."""
        kept, best = self.kept[query], self.best[query]
        scores, numbers = kept[0][2], views[kept[0][0]].segment.numbers[kept[0][1]]
        if len(kept) > 1:
            scores = np.concatenate([s for _, _, s in kept])
            numbers = np.concatenate([views[view].segment.numbers[rows] for view, rows, _ in kept])
        near = np.argsort(-scores, kind="stable")[: np.count_nonzero(scores >= best[0])]
        own = scores[near]
        if (own[1:] == own[:-1]).any():
            ids = [views[view].segment.ids[row] for view, rows, _ in kept for row in rows.tolist()]
            near = np.array(sorted(near.tolist(), key=lambda i: (-scores[i], ids[i])))
        near = near[: len(best)]
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
        self.progress = Progress(len(vectors), k)

    def answers(self) -> list[tuple[np.ndarray, np.ndarray, Evidence]]:
        """Numbers, scores and evidence of every query, the best passage first."""
        coded = [number for number, view in enumerate(self.views) if view.segment.codes]
        for number, view in enumerate(self.views):
            if not view.segment.codes:
                self._score_all(number)
        if coded:
            self._guess(coded)
        room = Room(len(self.vectors))
        for number in coded:
            self._scan(number, room)
        own = self.progress
        facts = (own.scanned, own.remained, own.refined, own.scored, own.bounds, own.best[:, 0])
        evidence = [Evidence(self.level_coded, *each) for each in zip(*(fact.tolist() for fact in facts), strict=True)]
        return [(*own.ranked(query, self.views), evidence[query]) for query in range(len(self.vectors))]

    def _coded(self, number: int) -> Any:
        return self.views[number].segment.codes[self.level_coded]

    def _score_all(self, number: int) -> None:
        rows = np.flatnonzero(self.views[number].rows_alive).astype(np.int32)
        room = Room(len(self.vectors), len(rows))
        room.places[:], room.bounds[:], room.counts[:] = rows, np.inf, len(rows)
        self._score(number, self.progress, np.arange(len(self.views[number].segment), dtype=np.int32), room)
        self.progress.keep(number, room)

    def _guess(self, coded: Sequence[int]) -> None:
        """A floor for every query from the strips most alike it."""
        alike = np.hstack([self.code.likeness(self.asked, self._coded(number).centres) for number in coded])
        several = min(GUESS_STRIPS, alike.shape[1])
        strips = np.argpartition(-alike, several - 1, axis=1)[:, :several]
        asked, anything = self.code.guess(self.asked), np.full(len(alike), -np.inf, np.float32)
        room = Room(len(alike), (several + 1) * STRIP)  # a strip more than is found: a scan stops before it may be full
        room.bounds[:] = -np.inf
        first, ends = 0, [room.counts.copy()]
        for number in coded:
            own = self._coded(number)
            end = first + len(own.strips)
            order = np.where((strips >= first) & (strips < end), strips - first, -1)
            self.code.scan(asked, own, self.views[number].places_alive, order, 0, anything, room)
            first = end
            ends.append(room.counts.copy())
        self._first_floor(asked, coded, room, ends)

    def _first_floor(self, asked: Any, coded: Sequence[int], room: Room, ends: Sequence[np.ndarray]) -> None:
        """Score the passages with the largest estimates. They will be found again, so nothing but the floor is kept."""
        own = self.progress
        several = min(max(GUESS_SCORED, 3 * own.best.shape[1]), room.bounds.shape[1])
        parted = np.partition(room.bounds, -several, axis=1)
        least = parted[:, -several].copy()  # contiguous, as kernels are compiled for
        trial = Progress(*own.best.shape)
        trial.best[:] = own.best
        picked = Room(*room.bounds.shape)
        for number, starts, stops in zip(coded, ends[:-1], ends[1:], strict=True):
            pick(room.places, room.bounds, starts, stops, least, *picked.found)
            if self.layout.compact:
                self._estimate(number, trial, asked, picked)
            else:
                picked.bounds[:, : picked.counts.max()] = np.inf
                self._score(number, trial, self.views[number].segment.rows, picked)
        own.scored += trial.scored
        own.floors = np.maximum(own.floors, trial.best[:, 0])

    def _scan(self, number: int, room: Room) -> None:
        """Bound all passages of a view for all queries, and score what the bounds do not rule out."""
        view, coded, own = self.views[number], self._coded(number), self.progress
        order, start = np.arange(len(coded.strips))[None], 0
        while start < order.shape[1]:
            floors = own.floors
            if self.layout.compact:
                floors = floors - self.code.allowance(self.asked, coded).astype(np.float32)
            room.counts[:] = 0
            stop = self.code.scan(self.asked, coded, view.places_alive, order, start, floors, room)
            own.scanned += (stop - start) * STRIP
            if self.layout.compact:
                self._estimate(number, own, self.asked, room)
            else:
                self._settle(number, room)
            own.keep(number, room)
            start = stop

    def _estimate(self, number: int, progress: Progress, asked: Any, room: Room) -> None:
        """Rank what was found in a view by estimate."""
        self.code.estimates(asked, self._coded(number), room)
        keep_found(self.views[number].segment.rows, *room.found, progress.floors - np.float32(SLACK), progress.best)

    def _settle(self, number: int, room: Room) -> None:
        """Rule out or score what was found in a view."""
        own = self.progress
        np.maximum(own.bounds, own.floors, out=own.bounds)
        own.remained += room.counts
        self.code.refine(self.asked, self._coded(number), own.floors, room)
        own.refined += room.counts
        self._score(number, own, self.views[number].segment.rows, room)

    def _score(self, number: int, progress: Progress, rows: np.ndarray, room: Room) -> None:
        """Compare what was found in a view in full, as far as its bounds ask for it."""
        stored = _arguments(self.views[number].segment, self.level, self.layout)
        state = (progress.floors, progress.best, progress.bounds, progress.scored)
        score_best_first(self.vectors, *stored, rows, *room.found, *state)


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

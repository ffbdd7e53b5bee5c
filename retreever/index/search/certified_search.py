"""Certified search (ours): the exact k best passages, found by upper bounds of their similarities.

1. A first threshold, a lower bound of the k-th best similarity: rank the passages of the blocks most similar to the
   query by estimate, and score the first of them exactly. The k-th best score is the threshold.
2. Scan all blocks, each read once for all queries. A passage whose upper bound is below the query's threshold is
   excluded; the others survive.
3. Refine: bound the survivors more tightly, and exclude again.
4. Score the remaining survivors exactly in falling order of their bounds, until no bound reaches the k-th best score.

A hybrid search knows the scores of the query's words beforehand, for all passages: posting lists are short. It adds
them to similarities, bounds and estimates alike, so that every step and its argument stay as they are. Cosines of
frozen encodings are bounded by a code of their own, whose bounds are added to those of the tree (see `added_parts`).

Nothing is approximate: every passage that was not scored has an upper bound below the k-th best score. Of a compact
index the answer is the best by estimate instead, found in the same way. How a code bounds a similarity is not known
here (see `codes/`), nor are texts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retreever.index.codes.passage_code import ROUNDING_SLACK, CandidateBuffer, PassageCode
from retreever.index.index_layout import Layout
from retreever.index.index_state import IndexState
from retreever.index.kernels.similarity_kernels import BLOCK_PASSAGES, score_rows
from retreever.index.kernels.top_k_kernels import keep_best_estimates, score_best_first, select_candidates
from retreever.index.lexical.hybrid_query import HybridQuery, count_places
from retreever.index.search.added_parts import add_parts
from retreever.index.segment import Segment, SegmentView, as_kernel_array
from retreever.system.threads import map_in_threads

PROBED_BLOCKS = 24  # blocks, of all segments together, that give the first threshold
PROBED_PASSAGES = 48  # passages scored for the first threshold, or 3 k if that is more
QUERIES_PER_SCAN = 64  # at most so many queries share a scan
MAX_ADDED_SCORES = 2**24  # scores of words that a scan holds, 64 MiB, unless one query has more


@dataclass(frozen=True)
class Evidence:
    """Why no passage that was left out belongs to the answer.

    Attributes:
        level: of the code that bounded all passages.
        scanned: passages bounded by the code.
        survived: passages whose first bound reached the threshold.
        refined: passages whose tighter bound reached it too.
        scored: passages compared exactly.
        bound: no passage that was not scored is more similar than this.
        kth: similarity of the last passage of the answer, at least `bound`; -inf where all passages are in it.
    """

    level: int
    scanned: int
    survived: int
    refined: int
    scored: int
    bound: float
    kth: float


class SearchProgress:
    """What a search knows so far, for each of its queries.

    Attributes:
        thresholds: lower bounds of the k-th best similarity, float32 (queries,).
        best: heaps of the k best similarities so far, the least first, (queries, k); -inf where there are fewer.
        bounds: no excluded passage is more similar than this, float32 (queries,).
        scanned, survived, refined, scored: as in `Evidence`, int64 (queries,).
        candidates: of each query, (view, rows, scores) of scored passages that may be among the best.
    """

    def __init__(self, queries: int, k: int):
        self.thresholds, self.bounds = (np.full(queries, -np.inf, np.float32) for _ in range(2))
        self.best = np.full((queries, k), -np.inf, np.float32)
        self.scanned, self.survived, self.refined, self.scored = np.zeros((4, queries), np.int64)
        self.candidates: list[list[tuple[int, np.ndarray, np.ndarray]]] = [[] for _ in range(queries)]

    def keep_candidates(self, view: int, buffer: CandidateBuffer) -> None:
        """Keep what a buffer holds, rows of a view and their scores, as candidates."""
        for own, count, rows, scores in zip(
            self.candidates, buffer.counts.tolist(), buffer.places, buffer.bounds, strict=True
        ):
            if count:
                own.append((view, rows[:count].copy(), scores[:count].copy()))

    def rank(self, query: int, views: Sequence[SegmentView]) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and scores of a query's k best candidates, best first; ties go to the id that sorts first."""
        found, best = self.candidates[query], self.best[query]
        scores, numbers = found[0][2], views[found[0][0]].segment.numbers[found[0][1]]
        if len(found) > 1:
            scores = np.concatenate([s for _, _, s in found])
            numbers = np.concatenate([views[view].segment.numbers[rows] for view, rows, _ in found])
        near = np.argsort(-scores, kind="stable")[: np.count_nonzero(scores >= best[0])]
        own = scores[near]
        if (own[1:] == own[:-1]).any():
            ids = [views[view].segment.ids[row] for view, rows, _ in found for row in rows.tolist()]
            near = np.array(sorted(near.tolist(), key=lambda i: (-scores[i], ids[i])))
        near = near[: len(best)]
        return numbers[near], scores[near]


class CertifiedSearch:
    """A search of some queries at one level over all views of an index; `search` runs it once.

    Args:
        vectors: the queries in stored form, float32 (queries, nodes).
        k: at least 1, at most the number of living passages.
        codes: by coded level; empty while all segments are small.
        parts: of the queries, in a hybrid search; scores, bounds and thresholds are then sums with theirs.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        level: int,
        k: int,
        layout: Layout,
        codes: Mapping[int, PassageCode],
        views: Sequence[SegmentView],
        parts: Sequence[HybridQuery] | None = None,
    ):
        self.vectors, self.level, self.layout, self.views = vectors, level, layout, views
        self.code_level = layout.find_code_level(level)
        self.code: Any = codes.get(self.code_level)
        self.queries: Any = self.code and self.code.encode_queries(
            layout.merge_to_level(vectors, min(level, self.code_level))
        )
        if self.code and layout.compact:
            self.queries = self.code.prepare_estimate_bounds(self.queries)
        self.progress = SearchProgress(len(vectors), k)
        self.parts = add_parts(parts, codes, views, len(vectors))

    def search(self) -> list[tuple[np.ndarray, np.ndarray, Evidence]]:
        """Numbers, scores and evidence of every query, the best passage first."""
        coded = [number for number, view in enumerate(self.views) if view.segment.codes]
        for number, view in enumerate(self.views):
            if not view.segment.codes:
                self._score_all(number)
        if coded:
            self._probe_blocks(coded)
        buffer = CandidateBuffer(len(self.vectors))
        for number in coded:
            self._scan(number, buffer)
        own = self.progress
        facts = (own.scanned, own.survived, own.refined, own.scored, own.bounds, own.best[:, 0])
        evidence = [Evidence(self.code_level, *each) for each in zip(*(fact.tolist() for fact in facts), strict=True)]
        return [(*own.rank(query, self.views), evidence[query]) for query in range(len(self.vectors))]

    def _get_codes(self, number: int) -> Any:
        return self.views[number].segment.codes[self.code_level]

    def _score_all(self, number: int) -> None:
        rows = np.flatnonzero(self.views[number].rows_alive).astype(np.int32)
        buffer = CandidateBuffer(len(self.vectors), len(rows))
        buffer.places[:], buffer.bounds[:], buffer.counts[:] = rows, np.inf, len(rows)
        self._score(number, self.progress, np.arange(len(self.views[number].segment), dtype=np.int32), buffer)
        self.progress.keep_candidates(number, buffer)

    def _probe_blocks(self, coded: Sequence[int]) -> None:
        """Find a first threshold for every query in the blocks most similar to it."""
        block_scores = np.hstack(
            [
                self.code.score_blocks(self.queries, self._get_codes(number).centres) + self.parts.block_scores[number]
                for number in coded
            ]
        )
        count = min(PROBED_BLOCKS, block_scores.shape[1])
        nearest_blocks = np.argpartition(-block_scores, count - 1, axis=1)[:, :count]
        queries = self.code.prepare_first_estimates(self.queries)
        no_thresholds = np.full(len(block_scores), -np.inf, np.float32)
        # Room for a block more than is scanned: a scan stops before its buffer may be full.
        buffer = CandidateBuffer(len(block_scores), (count + 1) * BLOCK_PASSAGES)
        buffer.bounds[:] = -np.inf
        first, ends = 0, [buffer.counts.copy()]
        for number in coded:
            own = self._get_codes(number)
            end = first + len(own.blocks)
            order = np.where((nearest_blocks >= first) & (nearest_blocks < end), nearest_blocks - first, -1)
            alive, added = self.views[number].places_alive, self.parts.bounds[number]
            self.code.scan(queries, own, alive, order, 0, no_thresholds, buffer, added)
            first = end
            ends.append(buffer.counts.copy())
        self._set_first_threshold(queries, coded, buffer, ends)

    def _set_first_threshold(
        self, queries: Any, coded: Sequence[int], buffer: CandidateBuffer, ends: Sequence[np.ndarray]
    ) -> None:
        """Score the passages with the largest estimates. The scan finds them again, so only the threshold is kept.

        Args:
            buffer: places with their estimates, those of one coded view after those of another.
            ends: counts of the buffer before the first coded view, and after each.
        """
        own = self.progress
        count = min(max(PROBED_PASSAGES, 3 * own.best.shape[1]), buffer.bounds.shape[1])
        thresholds = np.partition(buffer.bounds, -count, axis=1)[:, -count].copy()  # contiguous, as the kernels want it
        probe = SearchProgress(*own.best.shape)
        probe.best[:] = own.best
        selected = CandidateBuffer(*buffer.bounds.shape)
        for number, starts, stops in zip(coded, ends[:-1], ends[1:], strict=True):
            select_candidates(buffer.places, buffer.bounds, starts, stops, thresholds, *selected.kernel_arrays)
            if self.layout.compact:
                self._estimate(number, probe, queries, selected)
            else:
                selected.bounds[:, : selected.counts.max()] = np.inf
                self._score(number, probe, self.views[number].segment.rows, selected)
        own.scored += probe.scored
        own.thresholds = np.maximum(own.thresholds, probe.best[:, 0])

    def _scan(self, number: int, buffer: CandidateBuffer) -> None:
        """Bound all passages of a view for all queries, and score those that the bounds do not exclude."""
        view, coded, own = self.views[number], self._get_codes(number), self.progress
        order, start = np.arange(len(coded.blocks))[None], 0
        while start < order.shape[1]:
            thresholds = own.thresholds - self.parts.slack
            if self.layout.compact:
                thresholds = thresholds - self.code.bound_estimate_error(self.queries, coded).astype(np.float32)
            buffer.counts[:] = 0
            added = self.parts.bounds[number]
            stop = self.code.scan(self.queries, coded, view.places_alive, order, start, thresholds, buffer, added)
            own.scanned += (stop - start) * BLOCK_PASSAGES
            if self.layout.compact:
                self._estimate(number, own, self.queries, buffer)
            else:
                self._refine_and_score(number, buffer)
            own.keep_candidates(number, buffer)
            start = stop

    def _estimate(self, number: int, progress: SearchProgress, queries: Any, buffer: CandidateBuffer) -> None:
        """Rank the survivors of a view by estimate."""
        self.code.estimate(queries, self._get_codes(number), buffer, self.parts.bounds[number])
        keep_best_estimates(
            self.views[number].segment.rows,
            *buffer.kernel_arrays,
            progress.thresholds - self.parts.slack - np.float32(ROUNDING_SLACK),
            progress.best,
        )

    def _refine_and_score(self, number: int, buffer: CandidateBuffer) -> None:
        """Exclude survivors of a view by the tighter bound, and score the others."""
        own = self.progress
        np.maximum(own.bounds, own.thresholds, out=own.bounds)
        own.survived += buffer.counts
        coded, thresholds = self._get_codes(number), own.thresholds - self.parts.slack
        self.code.refine(self.queries, coded, thresholds, buffer, self.parts.bounds[number])
        self.parts.refine(self.views[number], thresholds, buffer)
        own.refined += buffer.counts
        self._score(number, own, self.views[number].segment.rows, buffer)

    def _score(self, number: int, progress: SearchProgress, rows: np.ndarray, buffer: CandidateBuffer) -> None:
        """Score the survivors of a view exactly, best bound first, while a bound reaches the threshold."""
        stored = _kernel_arguments(self.views[number].segment, self.level, self.layout)
        state = (progress.thresholds, progress.best, progress.bounds, progress.scored)
        for bounds, count, slack in zip(buffer.bounds, buffer.counts.tolist(), self.parts.slack.tolist(), strict=True):
            if slack:
                bounds[:count] += np.float32(slack)
        encodings = self.parts.get_kernel_encodings(self.views[number])
        added = (self.parts.added[number], self.parts.encodings, encodings)
        score_best_first(self.vectors, *stored, rows, *buffer.kernel_arrays, *state, *added)


def search_in_threads(
    vectors: np.ndarray,
    level: int,
    k: int,
    layout: Layout,
    state: IndexState,
    threads: int,
    parts: Sequence[HybridQuery] | None = None,
) -> list[tuple[np.ndarray, np.ndarray, Evidence]]:
    """Answers to queries in stored form; groups of at most `QUERIES_PER_SCAN` queries run in parallel.

    Args:
        k: at most the number of living passages.
        parts: of the queries, in a hybrid search.

    Returns:
        Numbers, scores and evidence of every query, the best passage first.
    """
    if not k or not len(vectors):
        nothing = Evidence(layout.find_code_level(level), 0, 0, 0, 0, -np.inf, -np.inf)
        return [(np.empty(0, np.int64), np.empty(0, np.float32), nothing) for _ in vectors]
    workers = min(len(vectors), threads)
    together = QUERIES_PER_SCAN
    if parts is not None:
        places = sum(count_places(len(view.segment)) for view in state.views)
        together = max(1, min(together, MAX_ADDED_SCORES // places))
    count = max(workers, -(-len(vectors) // together))
    groups = np.array_split(np.arange(len(vectors)), count)

    def search_group(group: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, Evidence]]:
        own = None if parts is None else [parts[query] for query in group]
        part = vectors[group[0] : group[-1] + 1]
        return CertifiedSearch(part, level, k, layout, state.codes, state.views, own).search()

    return [answer for part in map_in_threads(search_group, groups, workers) for answer in part]


def _kernel_arguments(segment: Segment, level: int, layout: Layout) -> tuple[np.ndarray, bool]:
    """A segment's vectors as the scoring kernels take them, and whether they are square roots."""
    return as_kernel_array(segment.get_vectors(level)), layout.similarity == "bhattacharyya"


def score_segment(vector: np.ndarray, level: int, segment: Segment, layout: Layout) -> np.ndarray:
    """Exact similarities of a query, in stored form, to every passage of a segment, float32 (rows,)."""
    return score_segment_rows(vector, level, segment, layout, np.arange(len(segment)))


def score_segment_rows(
    vector: np.ndarray, level: int, segment: Segment, layout: Layout, rows: np.ndarray
) -> np.ndarray:
    """Exact similarities of a query, in stored form, to some rows, int64 (rows,), of a segment, float32 (rows,)."""
    scores = np.empty(len(rows), np.float32)
    score_rows(vector, *_kernel_arguments(segment, level, layout), rows, scores)
    return scores

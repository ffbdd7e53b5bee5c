"""Compiled loops over candidates of queries: select, score exactly, keep the k best in heaps.

Compiled as in `similarity_kernels`. Places are those of a segment's codes, rows those of its vectors.
"""

import numba
import numpy as np

from retreever.index.kernels.digit_kernels import prefetch_cache_line
from retreever.index.kernels.float16_kernels import widen
from retreever.index.kernels.similarity_kernels import dot, score_vector

_plain = numba.njit(nogil=True, cache=True)


@_plain
def sift_down(heap: np.ndarray, value: np.float32) -> None:
    """Replace the least value of a heap, and restore the heap's order."""
    place, size = 0, heap.shape[0]
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if value <= heap[child]:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = value


@_plain
def update_heap(values: np.ndarray, best: np.ndarray) -> None:
    """Put those values into a heap of the best that exceed its least."""
    for value in values:
        if value > best[0]:
            sift_down(best, value)


@_plain
def select_candidates(
    places: np.ndarray,
    bounds: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    thresholds: np.ndarray,
    selected: np.ndarray,
    selected_bounds: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Copy, for each query, the places whose bounds reach its threshold.

    Args:
        places, bounds: (queries, capacity); those between `starts` and `ends`, int64 (queries,), are considered.
        thresholds: float32 (queries,).
        selected, selected_bounds: receive places and bounds, (queries, capacity).
        counts: receives how many are selected, int64 (queries,).
    """
    for query in range(counts.shape[0]):
        count = 0
        for i in range(starts[query], ends[query]):
            if bounds[query, i] >= thresholds[query]:
                selected[query, count], selected_bounds[query, count] = places[query, i], bounds[query, i]
                count += 1
        counts[query] = count


@_plain
def _prefetch_row(vectors: np.ndarray, row: int) -> None:
    """Prefetch a row while another is scored: rows are scattered, so the processor cannot predict the next one."""
    flat, width = vectors.reshape(-1), vectors.shape[1]
    for column in range(0, width, 64 // vectors.itemsize):
        prefetch_cache_line(flat, row * width + column)


@_plain
def score_best_first(
    queries: np.ndarray,
    vectors: np.ndarray,
    roots: bool,
    rows: np.ndarray,
    candidates: np.ndarray,
    upper_bounds: np.ndarray,
    counts: np.ndarray,
    thresholds: np.ndarray,
    best: np.ndarray,
    bounds: np.ndarray,
    scored: np.ndarray,
    added: np.ndarray,
    encoded_queries: np.ndarray,
    encodings: np.ndarray,
) -> None:
    """Score the candidates of each query in falling order of their bounds, until no bound reaches the k-th best score.

    Args:
        queries: in stored form, (queries, nodes).
        vectors, roots: as in `score_rows`.
        rows: the row at each place.
        candidates, upper_bounds: places and their bounds, (queries, capacity). Rows and scores of those that may be
            among the best replace them, from the front.
        counts: number of candidates, int64 (queries,); replaced by the number of those that may be among the best.
        thresholds: lower bounds of the k-th best similarity, (queries,); raised.
        best: heaps of the k best similarities so far, the least first, (queries, k); -inf where there are fewer.
        bounds: raised to the largest bound of a candidate that was not scored, (queries,).
        scored: raised by the number of scored candidates, (queries,).
        added: by place, added to the similarities, float32 (queries, places); no columns where nothing is.
        encoded_queries: their inner products with the passages' encodings are added too, float32 (queries, dim); no
            columns where nothing is.
        encodings: of the passages, (passages, dim), stored as `vectors` are.
    """
    wide, node = np.empty(vectors.shape[1], np.float32), np.empty(queries.shape[1], np.float32)
    encoding = np.empty(encodings.shape[1], np.float32)
    for query in range(counts.shape[0]):
        own, count, done = best[query], counts[query], 0
        order = np.argsort(-upper_bounds[query, :count])
        chosen, scores = np.empty(count, np.int32), np.empty(count, np.float32)
        for position in range(count):
            i = order[position]
            if upper_bounds[query, i] < max(thresholds[query], own[0]):
                bounds[query] = max(bounds[query], upper_bounds[query, i])
                break
            row = rows[candidates[query, i]]
            if position + 1 < count:
                _prefetch_row(vectors, rows[candidates[query, order[position + 1]]])
            widen(vectors[row], wide)
            chosen[done], scores[done] = row, score_vector(queries[query], wide, node, roots)
            if added.shape[1]:
                scores[done] += added[query, candidates[query, i]]
            if encoded_queries.shape[1]:
                widen(encodings[row], encoding)
                scores[done] += dot(encoded_queries[query], encoding)
            if scores[done] > own[0]:
                sift_down(own, scores[done])
            done += 1
        thresholds[query] = max(thresholds[query], own[0])
        kept = 0
        for i in range(done):
            if scores[i] >= thresholds[query]:
                candidates[query, kept], upper_bounds[query, kept] = chosen[i], scores[i]
                kept += 1
        counts[query] = kept
        scored[query] += done


@_plain
def keep_best_estimates(
    rows: np.ndarray,
    candidates: np.ndarray,
    estimates: np.ndarray,
    counts: np.ndarray,
    thresholds: np.ndarray,
    best: np.ndarray,
) -> None:
    """Update the heaps with the candidates' estimates, and keep those candidates that may be among the best.

    Args:
        rows, candidates, counts, thresholds, best: as in `score_best_first`.
        estimates: of the candidates, (queries, capacity).
    """
    for query in range(counts.shape[0]):
        own, kept = best[query], 0
        update_heap(estimates[query, : counts[query]], own)
        for i in range(counts[query]):
            if estimates[query, i] >= max(thresholds[query], own[0]):
                candidates[query, kept], estimates[query, kept] = rows[candidates[query, i]], estimates[query, i]
                kept += 1
        counts[query] = kept

"""The best of what codes leave of a corpus, of several queries at once: picked, compared in full, kept in heaps.

Compiled as the loops of `kernels` are. Places are those of a segment's codes, rows those of its passages.
"""

import numba
import numpy as np

from retreever.index.kernels.digit_kernels import prefetch
from retreever.index.kernels.similarity_kernels import score_widened, widen

_plain = numba.njit(nogil=True, cache=True)


@_plain
def sift(heap: np.ndarray, value: np.float32) -> None:
    """Put a value in the place of the least of a heap."""
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
def keep_best(values: np.ndarray, best: np.ndarray) -> None:
    """Bring a heap of the best up to date."""
    for value in values:
        if value > best[0]:
            sift(best, value)


@_plain
def pick(
    places: np.ndarray,
    bounds: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    least: np.ndarray,
    picked: np.ndarray,
    theirs: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Copy, for each of several queries, what lies between `starts` and `ends` and reaches `least`, each (queries,)."""
    for query in range(counts.shape[0]):
        count = 0
        for i in range(starts[query], ends[query]):
            if bounds[query, i] >= least[query]:
                picked[query, count], theirs[query, count] = places[query, i], bounds[query, i]
                count += 1
        counts[query] = count


@_plain
def _expect(vectors: np.ndarray, row: int) -> None:
    """Have a row read from memory while another one is worked on: rows lie anywhere, and no processor guesses where."""
    flat, width = vectors.reshape(-1), vectors.shape[1]
    for column in range(0, width, 64 // vectors.itemsize):
        prefetch(flat, row * width + column)


@_plain
def score_best_first(
    queries: np.ndarray,
    vectors: np.ndarray,
    roots: bool,
    rows: np.ndarray,
    found: np.ndarray,
    above: np.ndarray,
    counts: np.ndarray,
    floors: np.ndarray,
    best: np.ndarray,
    bounds: np.ndarray,
    scored: np.ndarray,
) -> None:
    """Score what each of several queries has found in falling order of its bounds, until none that follows can be among
    the best.

    Args:
        queries: in stored form, (queries, nodes).
        rows: of every place.
        found, above: places and their bounds, (queries, room); rows and similarities of those that may be among the
            best take their place at the front.
        counts: how many there are, int64 (queries,); then how many have taken their place.
        floors: the k-th best similarity of all is known to be no less, (queries,); raised.
        best: heaps of the k best similarities so far, the least of them first; -inf where there are fewer.
        bounds: (queries,); raised to the largest bound of those that were not scored.
        scored: (queries,); raised by how many were.
    """
    wide, node = np.empty(vectors.shape[1], np.float32), np.empty(queries.shape[1], np.float32)
    for query in range(counts.shape[0]):
        own, count, done = best[query], counts[query], 0
        order = np.argsort(-above[query, :count])
        chosen, scores = np.empty(count, np.int32), np.empty(count, np.float32)
        for position in range(count):
            i = order[position]
            if above[query, i] < max(floors[query], own[0]):
                bounds[query] = max(bounds[query], above[query, i])
                break
            row = rows[found[query, i]]
            if position + 1 < count:
                _expect(vectors, rows[found[query, order[position + 1]]])
            widen(vectors[row], wide)
            chosen[done], scores[done] = row, score_widened(queries[query], wide, node, roots)
            if scores[done] > own[0]:
                sift(own, scores[done])
            done += 1
        floors[query] = max(floors[query], own[0])
        kept = 0
        for i in range(done):
            if scores[i] >= floors[query]:
                found[query, kept], above[query, kept] = chosen[i], scores[i]
                kept += 1
        counts[query] = kept
        scored[query] += done


@_plain
def keep_found(
    rows: np.ndarray, found: np.ndarray, above: np.ndarray, counts: np.ndarray, floors: np.ndarray, best: np.ndarray
) -> None:
    """The same where `above` are estimates, by which passages are ranked."""
    for query in range(counts.shape[0]):
        own, kept = best[query], 0
        keep_best(above[query, : counts[query]], own)
        for i in range(counts[query]):
            if above[query, i] >= max(floors[query], own[0]):
                found[query, kept], above[query, kept] = rows[found[query, i]], above[query, i]
                kept += 1
        counts[query] = kept

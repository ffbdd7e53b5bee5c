"""The loops of a search, compiled by numba: exact similarities of chosen passages, and bounds of all of them.

Compiled once a machine (cached beside this file), vectorised for whatever the processor has, and free of Python's
lock, so that queries run side by side. Every passage is summed by the same loop wherever it lies, so equal passages
have equal scores to the bit and their order can be decided by id. The plain numpy twins are in the tests.

Codes lie in strips of `STRIP` passages, node by node, so that a loop over a strip handles as many passages at once as a
vector register holds, and nothing is summed across a register.
"""

from typing import Any

import numba
import numpy as np
from numba.extending import overload

from retreever.index.kernels.float16_kernels import half, single
from retreever.system.threads import side_by_side

STRIP = 256  # passages whose codes lie together: 16 KiB of code, their sums 512 bytes, all in the nearest cache
TOGETHER = 2_048  # rows that a thread narrows at a time

_fast = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
_plain = numba.njit(nogil=True, cache=True)


def widen(stored: Any, out: Any) -> Any:
    """A stored vector to float32, exactly: float32 as it is, float16 given as its bits (uint16), none negative."""
    out[:] = stored.view(np.float16) if stored.dtype == np.uint16 else stored


@overload(widen)
def _widen(stored: Any, out: Any) -> Any:
    def halves(stored: Any, out: Any) -> Any:
        for leaf in range(stored.shape[0]):
            out[leaf] = single(stored[leaf])

    def whole(stored: Any, out: Any) -> Any:
        out[:] = stored

    return halves if stored.dtype == numba.types.uint16 else whole


@_plain
def _widen_rows(stored: np.ndarray, out: np.ndarray) -> None:
    for row in range(stored.shape[0]):
        widen(stored[row], out[row])


@_plain
def _largest(bits: np.ndarray) -> np.uint32:
    largest = np.uint32(0)
    for column in range(bits.shape[0]):
        largest = max(largest, bits[column])
    return largest


@_plain
def _narrow_rows(values: np.ndarray, first: int, roots: bool, out: np.ndarray) -> np.uint32:
    width = out.shape[1]
    largest = np.uint32(0)
    for row in range(values.shape[0]):
        largest = max(largest, _largest(values[row].view(np.uint32)))
        own, narrow = values[row, first : first + width], out[row]
        if roots:
            for leaf in range(width):
                narrow[leaf] = half(np.sqrt(np.abs(own[leaf])))
        else:
            for leaf in range(width):
                narrow[leaf] = half(np.abs(own[leaf]))  # a zero may have a sign
    return largest


def narrow_rows(probabilities: np.ndarray, first: int, roots: bool, out: np.ndarray) -> np.uint32:
    """Write columns of probabilities, or their square roots, to float16 rows: to the nearest, ties to even.

    Args:
        first: the first of the columns.

    Returns:
        The largest of all the probabilities' bits, as of `largest_bits`: rows are read from memory once.
    """
    whole, bits = np.ascontiguousarray(probabilities, np.float32), out.view(np.uint16)
    parts = [slice(start, start + TOGETHER) for start in range(0, len(out), TOGETHER)]
    return max(
        side_by_side(lambda rows: _narrow_rows(whole[rows], first, roots, bits[rows]), parts), default=np.uint32(0)
    )


@_plain
def largest_bits(values: np.ndarray) -> np.uint32:
    """The largest of float32 numbers by their bits: those are in the order of the numbers, with all that has a sign and
    NaN above them."""
    largest = np.uint32(0)
    for row in range(values.shape[0]):
        largest = max(largest, _largest(values[row].view(np.uint32)))
    return largest


def widen_rows(stored: np.ndarray, out: np.ndarray) -> None:
    """Write stored vectors as float32."""
    if stored.dtype == np.float32:
        out[:] = stored
    else:
        _widen_rows(stored.view(np.uint16), out)


@_fast
def dot(query: np.ndarray, passage: np.ndarray) -> np.float32:
    """Inner product of two float32 vectors."""
    total = np.float32(0)
    for leaf in range(query.shape[0]):
        total += query[leaf] * passage[leaf]
    return total


@_plain
def dots(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Inner products, float32 (vectors, rows), in the thread that asks: a library's threads would get in one another's
    way where queries are answered side by side."""
    out = np.empty((vectors.shape[0], rows.shape[0]), np.float32)
    for i in range(vectors.shape[0]):
        for j in range(rows.shape[0]):
            out[i, j] = dot(vectors[i], rows[j])
    return out


@_fast
def _overlap(query: np.ndarray, passage: np.ndarray) -> np.float32:
    total = np.float32(0)
    for leaf in range(query.shape[0]):
        total += min(query[leaf], passage[leaf])
    return total


@_fast
def _sums(passage: np.ndarray, width: int, roots: bool, out: np.ndarray) -> None:
    for node in range(out.shape[0]):
        total = np.float32(0)
        for place in range(width):
            leaf = passage[node * width + place]
            total += leaf * leaf if roots else leaf
        out[node] = np.sqrt(total) if roots else total


@_fast
def _merge(passage: np.ndarray, roots: bool, out: np.ndarray) -> None:
    """Leaves summed to the nodes of a coarser level; roots of probabilities stay roots."""
    width = passage.shape[0] // out.shape[0]
    if width == 2:  # where the width is known to it, LLVM takes several nodes at a time
        _sums(passage, 2, roots, out)
    elif width == 4:
        _sums(passage, 4, roots, out)
    elif width == 8:
        _sums(passage, 8, roots, out)
    else:
        _sums(passage, width, roots, out)


@_plain
def merge_rows(passages: np.ndarray, roots: bool, out: np.ndarray) -> None:
    """float32 vectors of some level summed to those of the level of `out`, (rows, nodes)."""
    for row in range(out.shape[0]):
        _merge(passages[row], roots, out[row])


@_plain
def score_widened(query: np.ndarray, wide: np.ndarray, node: np.ndarray, roots: bool) -> np.float32:
    """Similarity of a query, in stored form at its level, and a passage's float32 vector of that or a finer level.

    Args:
        node: room for the passage's vector at the query's level.
        roots: the vectors are square roots (Bhattacharyya), not probabilities (nTVD).
    """
    passage = wide
    if node.shape[0] != wide.shape[0]:
        _merge(wide, roots, node)
        passage = node
    return dot(query, passage) if roots else _overlap(query, passage) - np.float32(1)


@_plain
def score_rows(query: np.ndarray, vectors: np.ndarray, roots: bool, rows: np.ndarray, out: np.ndarray) -> None:
    """Exact similarities of chosen passages.

    Args:
        query: in stored form, at its level, (nodes,).
        vectors: float32 (passages, leaves), or float16 as uint16, of the query's level or a finer one.
        rows: which passages, int64.
        out: their similarities, float32.
    """
    wide, node = np.empty(vectors.shape[1], np.float32), np.empty(query.shape[0], np.float32)
    for i in range(rows.shape[0]):
        widen(vectors[rows[i]], wide)
        out[i] = score_widened(query, wide, node, roots)


@_fast
def _overlaps(strip: np.ndarray, query: np.ndarray, sums: np.ndarray) -> None:
    sums[:] = 0
    for node in range(strip.shape[0]):
        nodes, own = strip[node], query[node]
        for i in range(sums.shape[0]):
            sums[i] += min(nodes[i], own)


@_plain
def scan_sums(
    strips: np.ndarray,
    alive: np.ndarray,
    order: np.ndarray,
    start: int,
    queries: np.ndarray,
    unit: np.float32,
    floors: np.ndarray,
    found: np.ndarray,
    above: np.ndarray,
    counts: np.ndarray,
) -> int:
    """Collect, for each of several queries, the places whose upper bound of the nTVD similarity reaches its floor.

    Args:
        strips: probabilities in units, rounded up, uint16 (strips, nodes, STRIP).
        queries: the same of the queries, uint16 (queries, nodes).
        unit: what one is worth.
        alive, order, start, floors, found, above, counts: as in `scan_digits`, and what is returned too.
    """
    sums = np.empty(STRIP, np.uint16)
    for position in range(start, order.shape[1]):
        if counts.max() + STRIP > found.shape[1]:
            return position
        for query in range(queries.shape[0]):
            strip = order[min(query, order.shape[0] - 1), position]
            if strip < 0:
                continue
            first = strip * STRIP
            _overlaps(strips[strip], queries[query], sums)
            count, floor = counts[query], (floors[query] + np.float32(1)) / unit
            if sums.max() >= floor:
                for i in range(STRIP):
                    if sums[i] >= floor and alive[first + i]:
                        found[query, count], above[query, count] = first + i, np.float32(sums[i]) * unit - np.float32(1)
                        count += 1
                counts[query] = count
    return order.shape[1]


@_fast
def _shared(passage: np.ndarray, query: np.ndarray) -> np.int32:
    total = np.int32(0)
    for node in range(query.shape[0]):
        total += np.int32(min(passage[node], query[node]))
    return total


@_plain
def refine_sums(
    low: np.ndarray,
    over: np.ndarray,
    queries: np.ndarray,
    unit: np.float32,
    constants: np.ndarray,
    rest: np.float32,
    floors: np.ndarray,
    found: np.ndarray,
    above: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Tighten what several queries have found by probabilities of more nodes, in bytes.

    Args:
        low: probabilities in units, rounded, uint8 (places, nodes).
        over: how much of a passage's was rounded off, float32 (places,).
        queries: the queries' in units, rounded, uint8 (queries, nodes).
        constants: what is added to every bound, float32 (queries,).
        rest: how much of `over` is added: 1 for bounds, 0 for estimates.
        floors, found, above, counts: as in `scan_sums`; what reaches its floor still goes to the front.
    """
    for query in range(counts.shape[0]):
        kept = 0
        for i in range(counts[query]):
            place = found[query, i]
            shared = unit * np.float32(_shared(low[place], queries[query])) + constants[query]
            bound = min(above[query, i], shared + rest * over[place])
            if bound >= floors[query]:
                found[query, kept], above[query, kept] = place, bound
                kept += 1
        counts[query] = kept

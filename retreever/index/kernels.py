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

STRIP = 256  # passages whose codes lie together: 16 KiB of code, their sums 512 bytes, all in the nearest cache

_fast = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
_plain = numba.njit(nogil=True, cache=True)


def widen(stored: Any, out: Any) -> Any:
    """A stored vector to float32, exactly: float32 as it is, float16 given as its bits (uint16), none of it negative.

    Moved to float32's place, the bits of a float16 read as the number times 2**-112, the difference of the two exponent
    biases.
    """
    out[:] = stored.view(np.float16) if stored.dtype == np.uint16 else stored


@overload(widen)
def _widen(stored: Any, out: Any) -> Any:
    def halves(stored: Any, out: Any) -> Any:
        for leaf in range(stored.shape[0]):
            out[leaf] = np.uint32(stored[leaf] << 13).view(np.float32) * np.float32(2.0**112)

    def whole(stored: Any, out: Any) -> Any:
        out[:] = stored

    return halves if stored.dtype == numba.types.uint16 else whole


@_fast
def _dot(query: np.ndarray, passage: np.ndarray) -> np.float32:
    total = np.float32(0)
    for leaf in range(query.shape[0]):
        total += query[leaf] * passage[leaf]
    return total


@_fast
def _overlap(query: np.ndarray, passage: np.ndarray) -> np.float32:
    total = np.float32(0)
    for leaf in range(query.shape[0]):
        total += min(query[leaf], passage[leaf])
    return total


@_fast
def _merge(passage: np.ndarray, roots: bool, out: np.ndarray) -> None:
    """Leaves summed to the nodes of a coarser level; roots of probabilities stay roots."""
    width = passage.shape[0] // out.shape[0]
    for node in range(out.shape[0]):
        total = np.float32(0)
        for leaf in range(node * width, (node + 1) * width):
            total += passage[leaf] * passage[leaf] if roots else passage[leaf]
        out[node] = np.sqrt(total) if roots else total


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
    return _dot(query, passage) if roots else _overlap(query, passage) - np.float32(1)


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
def _project(strip: np.ndarray, weights: np.ndarray, sums: np.ndarray) -> None:
    """sums[i] = sum_j weights[j] * digit[i, j] in 16 bits: wrapping is harmless, as the total is known to fit."""
    sums[:] = 0
    for j in range(0, strip.shape[0], 4):
        a, b, c, d = strip[j], strip[j + 1], strip[j + 2], strip[j + 3]
        w = weights[2 * j : 2 * j + 8]
        for i in range(sums.shape[0]):
            total = sums[i]
            total += np.int16(a[i] & 15) * w[0] + np.int16(a[i] >> 4) * w[1]
            total += np.int16(b[i] & 15) * w[2] + np.int16(b[i] >> 4) * w[3]
            total += np.int16(c[i] & 15) * w[4] + np.int16(c[i] >> 4) * w[5]
            total += np.int16(d[i] & 15) * w[6] + np.int16(d[i] >> 4) * w[7]
            sums[i] = total


@_plain
def _keep(
    bounds: np.ndarray,
    first: int,
    floor: np.float32,
    alive: np.ndarray,
    found: np.ndarray,
    above: np.ndarray,
    count: int,
) -> int:
    """Append the strip's living passages whose bound reaches the floor; returns how many there are by now."""
    best = bounds[0]
    for i in range(bounds.shape[0]):
        best = max(best, bounds[i])
    if best >= floor:
        for i in range(bounds.shape[0]):
            if bounds[i] >= floor and alive[first + i]:
                found[count], above[count] = first + i, bounds[i]
                count += 1
    return count


@_fast
def _bound(
    sums: np.ndarray,
    factor: np.float32,
    base: np.ndarray,
    beside: np.ndarray,
    shares: np.ndarray,
    first: int,
    bounds: np.ndarray,
) -> None:
    own, inner, outer = base[first:], beside[0, first:], beside[1, first:]
    for i in range(bounds.shape[0]):
        rest = shares[0] * np.float32(inner[i]) + shares[1] * np.float32(outer[i]) + shares[3]
        bounds[i] = factor * np.float32(sums[i]) + own[i] + rest


@_plain
def scan_projection(
    strips: np.ndarray,
    base: np.ndarray,
    beside: np.ndarray,
    order: np.ndarray,
    alive: np.ndarray,
    weights: np.ndarray,
    factor: np.float32,
    shares: np.ndarray,
    floor: np.float32,
    found: np.ndarray,
    above: np.ndarray,
) -> int:
    """Places whose upper bound of the inner product reaches a floor.

    Args:
        strips: digits of 4 bits, two a byte, uint8 (strips, dims / 2, STRIP).
        base: what is added to the bound of every place, float32 (places,).
        beside: how much of a passage lies beside its code, in units: within the basis by the upper digits, outside the
            basis, within the basis by both digits; uint8 (3, places).
        order: which strips to look at.
        alive: whether a place counts, uint8 (places,).
        weights: of the query for every digit, int16 (dims,), such that no sum of products leaves 16 bits.
        factor: what a unit of those sums is worth.
        shares: what a unit of the three numbers in `beside` adds, and what is added to every bound, float32 (4,).
        found, above: receive places (int32) and their bounds (float32).

    Returns:
        How many were found.
    """
    sums, bounds = np.empty(STRIP, np.int16), np.empty(STRIP, np.float32)
    count = 0
    for s in order:
        _project(strips[s], weights, sums)
        _bound(sums, factor, base, beside, shares, s * STRIP, bounds)
        count = _keep(bounds, s * STRIP, floor, alive, found, above, count)
    return count


@_fast
def _refined(low: np.ndarray, steps: np.ndarray) -> np.float32:
    total = np.float32(0)
    for j in range(low.shape[0]):
        total += steps[2 * j] * np.float32(low[j] & 15) + steps[2 * j + 1] * np.float32(low[j] >> 4)
    return total


@_plain
def refine_projection(
    low: np.ndarray,
    beside: np.ndarray,
    steps: np.ndarray,
    shares: np.ndarray,
    floor: np.float32,
    found: np.ndarray,
    above: np.ndarray,
) -> int:
    """Tighten the bounds of found places by the digits that the scan did not read; keep what still reaches the floor.

    Args:
        low: lower 4 bits of every digit, uint8 (places, dims / 2).
        beside, shares: as in the scan.
        steps: what a unit of a lower digit is worth to the query, float32 (dims,), then what is added to all.

    Returns:
        How many are kept, at the front of `found` and `above`.
    """
    kept = 0
    for i in range(found.shape[0]):
        place = found[i]
        tighter = shares[2] * np.float32(beside[2, place]) - shares[0] * np.float32(beside[0, place])
        bound = above[i] + _refined(low[place], steps) + steps[-1] + tighter
        if bound >= floor:
            found[kept], above[kept] = place, bound
            kept += 1
    return kept


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
    order: np.ndarray,
    alive: np.ndarray,
    query: np.ndarray,
    unit: np.float32,
    floor: np.float32,
    found: np.ndarray,
    above: np.ndarray,
) -> int:
    """Places whose upper bound of the nTVD similarity reaches a floor.

    Args:
        strips: probabilities in units, rounded up, uint16 (strips, nodes, STRIP).
        query: the same of the query, uint16 (nodes,).
        unit: what one is worth.
        order, alive, floor, found, above: as in `scan_projection`.
    """
    sums, bounds = np.empty(STRIP, np.uint16), np.empty(STRIP, np.float32)
    count = 0
    for s in order:
        _overlaps(strips[s], query, sums)
        for i in range(STRIP):
            bounds[i] = np.float32(sums[i]) * unit - np.float32(1)
        count = _keep(bounds, s * STRIP, floor, alive, found, above, count)
    return count


@_plain
def _sift(heap: np.ndarray, value: np.float32) -> None:
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
def score_while_needed(
    query: np.ndarray,
    vectors: np.ndarray,
    roots: bool,
    rows: np.ndarray,
    above: np.ndarray,
    best: np.ndarray,
    scores: np.ndarray,
) -> int:
    """Score passages in falling order of their bounds, until none that follows can be among the best.

    Args:
        rows, above: passages and their bounds, the largest bound first.
        best: a heap of the k best similarities so far, the least of them first; -inf where there are fewer.
        scores: receives the similarities.

    Returns:
        How many were scored; `best` is up to date.
    """
    wide, node = np.empty(vectors.shape[1], np.float32), np.empty(query.shape[0], np.float32)
    for i in range(rows.shape[0]):
        if above[i] < best[0]:
            return i
        widen(vectors[rows[i]], wide)
        scores[i] = score_widened(query, wide, node, roots)
        if scores[i] > best[0]:
            _sift(best, scores[i])
    return rows.shape[0]

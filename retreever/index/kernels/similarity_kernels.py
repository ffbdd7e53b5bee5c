"""Compiled loops over vectors: exact similarities, merged levels, and the bounds of nTVD codes.

Loops are compiled once on each machine (numba caches them next to this file), vectorised for its processor, and free of
Python's lock, so that queries run in parallel. The same loop sums every passage wherever it lies, so equal passages
have equal scores to the bit, and ties can be decided by id. The tests have a numpy version of each loop.

Codes lie in blocks of `BLOCK_PASSAGES` passages, node by node. A loop over a block processes as many passages at once
as a vector register holds, and never sums across a register.
"""

import numba
import numpy as np

from retreever.index.kernels.float16_kernels import widen

BLOCK_PASSAGES = 256  # passages whose codes lie together: 16 KiB of codes and 512 bytes of sums fit the L1 cache

_fast = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
_plain = numba.njit(nogil=True, cache=True)


@_fast
def dot(query: np.ndarray, passage: np.ndarray) -> np.float32:
    """Inner product of two float32 vectors."""
    total = np.float32(0)
    for leaf in range(query.shape[0]):
        total += query[leaf] * passage[leaf]
    return total


@_plain
def dot_rows(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Inner products, float32 (vectors, rows), computed in the calling thread: queries already run in parallel, and the
    threads of a library would compete with them."""
    out = np.empty((vectors.shape[0], rows.shape[0]), np.float32)
    for i in range(vectors.shape[0]):
        for j in range(rows.shape[0]):
            out[i, j] = dot(vectors[i], rows[j])
    return out


@_fast
def _sum_minima(query: np.ndarray, passage: np.ndarray) -> np.float32:
    total = np.float32(0)
    for leaf in range(query.shape[0]):
        total += min(query[leaf], passage[leaf])
    return total


@_fast
def _sum_children(passage: np.ndarray, width: int, roots: bool, out: np.ndarray) -> None:
    for node in range(out.shape[0]):
        total = np.float32(0)
        for place in range(width):
            leaf = passage[node * width + place]
            total += leaf * leaf if roots else leaf
        out[node] = np.sqrt(total) if roots else total


@_fast
def _merge_nodes(passage: np.ndarray, roots: bool, out: np.ndarray) -> None:
    """Sum a vector to a coarser level; square roots of probabilities give square roots."""
    width = passage.shape[0] // out.shape[0]
    if width == 2:  # LLVM vectorises a loop of constant width
        _sum_children(passage, 2, roots, out)
    elif width == 4:
        _sum_children(passage, 4, roots, out)
    elif width == 8:
        _sum_children(passage, 8, roots, out)
    else:
        _sum_children(passage, width, roots, out)


@_plain
def merge_rows(passages: np.ndarray, roots: bool, out: np.ndarray) -> None:
    """Sum float32 vectors to the coarser level whose width `out`, (rows, nodes), has.

    Args:
        roots: vectors are square roots of probabilities.
    """
    for row in range(out.shape[0]):
        _merge_nodes(passages[row], roots, out[row])


@_plain
def score_vector(query: np.ndarray, wide: np.ndarray, node: np.ndarray, roots: bool) -> np.float32:
    """Similarity of a query, in stored form at its level, and a passage's float32 vector of that or a finer level.

    Args:
        node: buffer for the passage's vector at the query's level, (nodes,).
        roots: vectors are square roots (Bhattacharyya), not probabilities (nTVD).
    """
    passage = wide
    if node.shape[0] != wide.shape[0]:
        _merge_nodes(wide, roots, node)
        passage = node
    return dot(query, passage) if roots else _sum_minima(query, passage) - np.float32(1)


@_plain
def score_rows(query: np.ndarray, vectors: np.ndarray, roots: bool, rows: np.ndarray, out: np.ndarray) -> None:
    """Exact similarities of some passages.

    Args:
        query: in stored form, at its level, (nodes,).
        vectors: float32 (passages, leaves), or float16 as uint16, of the query's level or a finer one.
        roots: vectors are square roots (Bhattacharyya), not probabilities (nTVD).
        rows: rows of the passages in `vectors`, int64 (rows,).
        out: receives the similarities, float32 (rows,).
    """
    wide, node = np.empty(vectors.shape[1], np.float32), np.empty(query.shape[0], np.float32)
    for i in range(rows.shape[0]):
        widen(vectors[rows[i]], wide)
        out[i] = score_vector(query, wide, node, roots)


@_fast
def _sum_block_minima(block: np.ndarray, query: np.ndarray, sums: np.ndarray) -> None:
    sums[:] = 0
    for node in range(block.shape[0]):
        nodes, own = block[node], query[node]
        for i in range(sums.shape[0]):
            sums[i] += min(nodes[i], own)


@_plain
def scan_probabilities(
    block_codes: np.ndarray,
    alive: np.ndarray,
    order: np.ndarray,
    start: int,
    queries: np.ndarray,
    unit: np.float32,
    thresholds: np.ndarray,
    candidates: np.ndarray,
    upper_bounds: np.ndarray,
    counts: np.ndarray,
    added: np.ndarray,
) -> int:
    """Collect, for each query, the living places whose upper bound of the nTVD reaches the query's threshold.

    Args:
        block_codes: probabilities in units, rounded up, uint16 (blocks, nodes, 256).
        queries: the same for queries, uint16 (queries, nodes).
        unit: probability of one unit.
        alive, order, start, thresholds, candidates, upper_bounds, counts, added: as in `scan_digits`.

    Returns:
        As `scan_digits`.
    """
    sums = np.empty(BLOCK_PASSAGES, np.uint16)
    for position in range(start, order.shape[1]):
        if counts.max() + BLOCK_PASSAGES > candidates.shape[1]:
            return position
        for query in range(queries.shape[0]):
            block = order[min(query, order.shape[0] - 1), position]
            if block < 0:
                continue
            first = block * BLOCK_PASSAGES
            _sum_block_minima(block_codes[block], queries[query], sums)
            count, largest = counts[query], np.float32(0)
            if added.shape[1]:
                largest = added[query, first : first + BLOCK_PASSAGES].max()
            threshold = (thresholds[query] + np.float32(1) - largest) / unit
            if sums.max() >= threshold:
                for i in range(BLOCK_PASSAGES):
                    if sums[i] >= threshold and alive[first + i]:
                        bound = np.float32(sums[i]) * unit - np.float32(1)
                        if added.shape[1]:
                            bound += added[query, first + i]
                            if bound < thresholds[query]:
                                continue
                        candidates[query, count], upper_bounds[query, count] = first + i, bound
                        count += 1
                counts[query] = count
    return order.shape[1]


@_fast
def _sum_byte_minima(passage: np.ndarray, query: np.ndarray) -> np.int32:
    total = np.int32(0)
    for node in range(query.shape[0]):
        total += np.int32(min(passage[node], query[node]))
    return total


@_plain
def refine_probabilities(
    low: np.ndarray,
    excess: np.ndarray,
    queries: np.ndarray,
    unit: np.float32,
    constants: np.ndarray,
    excess_weight: np.float32,
    thresholds: np.ndarray,
    candidates: np.ndarray,
    upper_bounds: np.ndarray,
    counts: np.ndarray,
    added: np.ndarray,
) -> None:
    """Tighten the bounds of the candidates of each query by probabilities of more nodes, in bytes.

    Args:
        low: passages' probabilities in units, rounded, uint8 (places, nodes).
        excess: what rounding took off a passage's probabilities, summed over nodes, float32 (places,).
        queries: queries' probabilities in units, rounded, uint8 (queries, nodes).
        unit: probability of one unit.
        constants: added to every bound, float32 (queries,).
        excess_weight: factor of `excess`: 1 for bounds, 0 for estimates.
        thresholds, candidates, upper_bounds, counts, added: as in `scan_probabilities`; survivors move to the front.
    """
    for query in range(counts.shape[0]):
        kept = 0
        for i in range(counts[query]):
            place = candidates[query, i]
            shared = unit * np.float32(_sum_byte_minima(low[place], queries[query])) + constants[query]
            if added.shape[1]:
                shared += added[query, place]
            bound = min(upper_bounds[query, i], shared + excess_weight * excess[place])
            if bound >= thresholds[query]:
                candidates[query, kept], upper_bounds[query, kept] = place, bound
                kept += 1
        counts[query] = kept

"""Compiled loops over posting lists: pack, unpack, and add scores of words to those of passages.

The postings of a term lie in blocks of `BLOCK_PASSAGES` places. A *cell* is a term in a block. Where few passages of
the block have the term, the cell's data are their places within the block, a byte each, then their impacts. Where
many have it, they are the impacts of all places, zeros included: no larger, and added in vector lanes.
"""

import numba
import numpy as np

from retreever.index.kernels.similarity_kernels import BLOCK_PASSAGES

DENSE_COUNT = BLOCK_PASSAGES // 2  # a cell of so many passages has the impacts of all places

_plain = numba.njit(nogil=True, cache=True)


@_plain
def measure_postings(keys: np.ndarray) -> tuple[int, int]:
    """Cells, and bytes of data, of sorted keys.

    Args:
        keys: uint64; from the top 32 bits of the term's number, 24 of the place, 8 of the impact.
    """
    cells, size, start = 0, 0, 0
    for i in range(1, keys.shape[0] + 1):
        if i == keys.shape[0] or keys[i] >> np.uint64(16) != keys[start] >> np.uint64(16):
            cells += 1
            size += BLOCK_PASSAGES if i - start >= DENSE_COUNT else 2 * (i - start)
            start = i
    return cells, size


@_plain
def pack_keys(
    keys: np.ndarray,
    first_cells: np.ndarray,
    first_bytes: np.ndarray,
    frequencies: np.ndarray,
    blocks: np.ndarray,
    counts: np.ndarray,
    data: np.ndarray,
) -> None:
    """Write posting lists.

    Args:
        keys: as in `measure_postings`.
        first_cells, first_bytes, frequencies: zeros; receive what `Postings` has under these names.
        blocks, counts, data: receive the same.
    """
    cell, at, start = 0, 0, 0
    for i in range(1, keys.shape[0] + 1):
        if i < keys.shape[0] and keys[i] >> np.uint64(16) == keys[start] >> np.uint64(16):
            continue
        count, term = i - start, np.int64(keys[start] >> np.uint64(32))
        if frequencies[term] == 0:
            first_cells[term], first_bytes[term] = cell, at
        frequencies[term] += count
        blocks[cell] = (keys[start] >> np.uint64(16)) & np.uint64(0xFFFF)
        if count >= DENSE_COUNT:
            counts[cell] = DENSE_COUNT
            data[at : at + BLOCK_PASSAGES] = 0
            for j in range(start, i):
                data[at + np.int64((keys[j] >> np.uint64(8)) & np.uint64(0xFF))] = keys[j] & np.uint64(0xFF)
            at += BLOCK_PASSAGES
        else:
            counts[cell] = count
            for j in range(start, i):
                data[at + j - start] = (keys[j] >> np.uint64(8)) & np.uint64(0xFF)
                data[at + count + j - start] = keys[j] & np.uint64(0xFF)
            at += 2 * count
        cell += 1
        start = i
    first_cells[-1] = cell


@_plain
def unpack_keys(
    first_cells: np.ndarray, blocks: np.ndarray, counts: np.ndarray, data: np.ndarray, keys: np.ndarray
) -> None:
    """The inverse of `pack_keys`: write all keys."""
    at, done = np.int64(0), 0
    for term in range(first_cells.shape[0] - 1):
        for cell in range(first_cells[term], first_cells[term + 1]):
            first = np.uint64(term) << np.uint64(32) | np.uint64(blocks[cell]) << np.uint64(16)
            count = np.int64(counts[cell])
            if count == DENSE_COUNT:
                for place in range(BLOCK_PASSAGES):
                    if data[at + place]:
                        keys[done] = first | np.uint64(place) << np.uint64(8) | np.uint64(data[at + place])
                        done += 1
                at += BLOCK_PASSAGES
            else:
                for i in range(at, at + count):
                    keys[done] = first | np.uint64(data[i]) << np.uint64(8) | np.uint64(data[i + count])
                    done += 1
                at += 2 * count


@_plain
def add_impacts(
    found: np.ndarray,
    weights: np.ndarray,
    first_cells: np.ndarray,
    first_bytes: np.ndarray,
    blocks: np.ndarray,
    counts: np.ndarray,
    data: np.ndarray,
    added: np.ndarray,
) -> None:
    """Add the weighted impacts of some terms, one term after the other, to the scores of the places that have them.

    Args:
        found: numbers of the terms, int64 (terms,); -1 for one that is not there.
        weights: of the terms, float32 (terms,).
        added: by place, float32 (places,).
    """
    for i in range(found.shape[0]):
        term, weight = found[i], weights[i]
        if term < 0:
            continue
        at = np.int64(first_bytes[term])
        for cell in range(first_cells[term], first_cells[term + 1]):
            first, count = np.int64(blocks[cell]) * BLOCK_PASSAGES, np.int64(counts[cell])
            if count == DENSE_COUNT:
                block, impacts = added[first : first + BLOCK_PASSAGES], data[at : at + BLOCK_PASSAGES]
                for place in range(BLOCK_PASSAGES):
                    block[place] += weight * np.float32(impacts[place])
                at += BLOCK_PASSAGES
            else:
                for j in range(at, at + count):
                    added[first + data[j]] += weight * np.float32(data[j + count])
                at += 2 * count


@_plain
def find_block_maxima(added: np.ndarray, maxima: np.ndarray) -> None:
    """The largest score of each block: float32 (queries, places) to (queries, blocks)."""
    for query in range(added.shape[0]):
        for block in range(maxima.shape[1]):
            own = added[query, block * BLOCK_PASSAGES : (block + 1) * BLOCK_PASSAGES]
            largest = own[0]
            for i in range(1, BLOCK_PASSAGES):
                largest = max(largest, own[i])
            maxima[query, block] = largest

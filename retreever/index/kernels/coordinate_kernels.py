"""Kernels from vectors to digits: passages' coordinates on a grid, where a search reads them, and queries' weights."""

import numba
import numpy as np

from retreever.index.kernels.digit_kernels import BLOCK, GROUP, HIGH, WEIGHT
from retreever.index.kernels.similarity_kernels import dot

_fast = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
_plain = numba.njit(nogil=True, cache=True)


@_fast
def centre_rows(vectors: np.ndarray, mean: np.ndarray, sums: np.ndarray) -> None:
    """Take a mean off vectors; their inner products with it, and squared lengths of what is left, (2, rows)."""
    for row in range(vectors.shape[0]):
        own = vectors[row]
        along, length = np.float32(0), np.float32(0)
        for node in range(mean.shape[0]):
            along += own[node] * mean[node]
            rest = own[node] - mean[node]
            own[node] = rest
            length += rest * rest
        sums[0, row], sums[1, row] = along, length


@_fast
def digit_rows(exact: np.ndarray, step: np.ndarray, digits: np.ndarray, squares: np.ndarray) -> None:
    """Coordinates on a grid of 256 points around zero, `step` apart, uint8.

    Args:
        squares: receives squared lengths of rows, of what is lost where the lower 4 bits are taken as 7.5, and of what
            is lost with all bits, (3, rows).
    """
    for row in range(exact.shape[0]):
        whole, upper, lower = np.float32(0), np.float32(0), np.float32(0)
        for d in range(step.shape[0]):
            value = exact[row, d]
            point = min(max(np.rint(value / step[d] + np.float32(127.5)), np.float32(0)), np.float32(255))
            digit = np.uint8(np.int32(point))
            digits[row, d] = digit
            coarse = value - (np.float32(digit & 0xF0) - np.float32(120)) * step[d]
            fine = value - (point - np.float32(127.5)) * step[d]
            whole += value * value
            upper += coarse * coarse
            lower += fine * fine
        squares[0, row], squares[1, row], squares[2, row] = whole, upper, lower


@_plain
def lay_rows(digits: np.ndarray, rows: np.ndarray, blocks: np.ndarray, lower: np.ndarray, sums: np.ndarray) -> None:
    """Put digits of 8 bits where a search reads them: their upper 4 bits into blocks, the lower ones by place.

    Args:
        digits: uint8 (rows, dims).
        rows: of every place; as many places as there are in whole blocks.
        blocks: receives upper bits, two a byte (the even one lower), a group a word: uint32 (blocks, groups, `BLOCK`).
        lower: receives lower bits, two a byte, uint8 (places, dims / 2).
        sums: receives the sum of every digit over equally many places each, (parts, dims).
    """
    half, each = lower.shape[1], rows.shape[0] // sums.shape[0]
    upper = np.empty(half, np.uint8)
    words = upper.view(np.uint32)
    total = np.empty(digits.shape[1], np.uint32)
    for place in range(rows.shape[0]):
        own = digits[rows[place]]
        for j in range(half):
            even, odd = own[2 * j], own[2 * j + 1]
            upper[j] = np.uint8(even >> 4) | np.uint8(odd & 0xF0)
            lower[place, j] = np.uint8(even & 0x0F) | np.uint8(odd << 4)
        block, lane = place // BLOCK, place % BLOCK
        for group in range(words.shape[0]):
            blocks[block, group, lane] = words[group]
        if place % each == 0:
            total[:] = 0
        for d in range(total.shape[0]):
            total[d] += own[d]
        if place % each == each - 1:
            sums[place // each] = total


@_plain
def weigh_rows(
    vectors: np.ndarray,
    mean: np.ndarray,
    directions: np.ndarray,
    step: np.ndarray,
    places: np.ndarray,
    weights: np.ndarray,
    lower: np.ndarray,
    terms: np.ndarray,
) -> None:
    """Coordinates of queries, and what digits are worth to them.

    Args:
        vectors, mean, directions: float32 (queries, nodes), (nodes,), (dims, nodes).
        step: distance of two grid points in each direction, float32 (dims,).
        places: receives coordinates, then 1, float32 (queries, dims + 1).
        weights: receives those of upper digits, int8 (queries, 2 * dims), as the scan takes them: of every group the
            high parts of even and odd digits, then the low parts.
        lower: receives what a unit of a lower digit is worth, then what is added to all, float32 (queries, dims + 1).
        terms: receives, float64 (queries, 4): the unit of weights; squared lengths within the directions and in all;
            what is added to the sum of weighted digits for the inner product with what they stand for to be no more.
    """
    dims = step.shape[0]
    centred, worth = np.empty(mean.shape[0], np.float32), np.empty(dims)
    for query in range(vectors.shape[0]):
        whole, within, lowest, largest = 0.0, 0.0, 0.0, 1e-12
        for node in range(mean.shape[0]):
            centred[node] = vectors[query, node] - mean[node]
            whole += np.float64(centred[node]) ** 2
        for d in range(dims):
            place = np.float64(dot(centred, directions[d]))
            within += place * place
            worth[d] = place * step[d]
            largest = max(largest, abs(worth[d]))
            lowest += worth[d]
            places[query, d], lower[query, d] = place, worth[d]
        places[query, dims], lower[query, dims] = 1, -7.5 * lowest
        unit = largest * 16 / WEIGHT
        lost, total = 0.0, 0.0
        for d in range(dims):
            weight = np.rint(worth[d] * 16 / unit)
            high = np.rint(weight / HIGH)
            lost += abs(worth[d] * 16 - weight * unit)
            total += weight
            at = d // (2 * GROUP) * 4 * GROUP + d % 2 * GROUP + d % (2 * GROUP) // 2
            weights[query, at], weights[query, at + 2 * GROUP] = high, weight - HIGH * high
        terms[query, 0], terms[query, 1], terms[query, 2] = unit, within, whole
        terms[query, 3] = dot(centred, mean) - 7.5 * unit * total + 7.5 * lost

"""Compiled loops from vectors to digits: coordinates on a grid, and the weights of queries.

Digits are packed as a scan reads them. How the digits bound a similarity is in `codes.projection_code`.
"""

import numba
import numpy as np

from retreever.index.kernels.digit_kernels import GROUP_BYTES, HIGH_PART_UNIT, LARGEST_WEIGHT, TILE_PASSAGES
from retreever.index.kernels.similarity_kernels import dot

_fast = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
_plain = numba.njit(nogil=True, cache=True)


@_fast
def centre_vectors(vectors: np.ndarray, mean: np.ndarray, sums: np.ndarray) -> None:
    """Subtract a mean from vectors in place.

    Args:
        sums: receives inner products of the vectors with the mean, and squared lengths of the differences, (2, rows).
    """
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
def quantize_rows(exact: np.ndarray, step: np.ndarray, digits: np.ndarray, squares: np.ndarray) -> None:
    """Round coordinates to a grid of 256 points around zero, `step` apart.

    Args:
        exact: coordinates, float32 (rows, dims).
        digits: receives the grid points, uint8 (rows, dims).
        squares: receives squared lengths of the rows, of the error when the lower 4 bits are taken as 7.5, and of the
            error with all bits, (3, rows).
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
def pack_rows(digits: np.ndarray, rows: np.ndarray, tiles: np.ndarray, lower: np.ndarray, sums: np.ndarray) -> None:
    """Pack digits of 8 bits as a search reads them: the upper 4 bits in tiles, the lower 4 bits by place.

    Args:
        digits: uint8 (rows, dims).
        rows: the row at each place; the places fill whole tiles.
        tiles: receives upper bits, two a byte (the even one lower), a group a word: uint32 (tiles, groups, 32).
        lower: receives lower bits, two a byte, uint8 (places, dims / 2).
        sums: receives the sums of the digits over equal runs of places, a row a run, (runs, dims).
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
        tile, lane = place // TILE_PASSAGES, place % TILE_PASSAGES
        for group in range(words.shape[0]):
            tiles[tile, group, lane] = words[group]
        if place % each == 0:
            total[:] = 0
        for d in range(total.shape[0]):
            total[d] += own[d]
        if place % each == each - 1:
            sums[place // each] = total


@_plain
def weigh_queries(
    vectors: np.ndarray,
    mean: np.ndarray,
    directions: np.ndarray,
    step: np.ndarray,
    coordinates: np.ndarray,
    weights: np.ndarray,
    lower: np.ndarray,
    terms: np.ndarray,
) -> None:
    """Coordinates of queries, and the weights of a passage's digits in inner products with them.

    Args:
        vectors, mean, directions: float32 (queries, nodes), (nodes,), (dims, nodes).
        step: distance of two grid points in each direction, float32 (dims,).
        coordinates: receives coordinates, then 1, float32 (queries, dims + 1).
        weights: receives the integer weights of upper digits, int8 (queries, 2 * dims), in the scan's order: of every
            group the high parts of even and odd digits, then the low parts.
        lower: receives the weights of lower digits, then a constant, float32 (queries, dims + 1).
        terms: receives, float64 (queries, 4): the unit of the integer weights; the query's squared length within the
            directions, and in all; a constant that makes the weighted sum an upper bound of the inner product with the
            grid point, whatever the rounding of the weights.
    """
    dims = step.shape[0]
    centred, worth = np.empty(mean.shape[0], np.float32), np.empty(dims)
    for query in range(vectors.shape[0]):
        whole, within, lowest, largest = 0.0, 0.0, 0.0, 1e-12
        for node in range(mean.shape[0]):
            centred[node] = vectors[query, node] - mean[node]
            whole += np.float64(centred[node]) ** 2
        for d in range(dims):
            coordinate = np.float64(dot(centred, directions[d]))
            within += coordinate * coordinate
            worth[d] = coordinate * step[d]
            largest = max(largest, abs(worth[d]))
            lowest += worth[d]
            coordinates[query, d], lower[query, d] = coordinate, worth[d]
        coordinates[query, dims], lower[query, dims] = 1, -7.5 * lowest
        unit = largest * 16 / LARGEST_WEIGHT
        lost, total = 0.0, 0.0
        for d in range(dims):
            weight = np.rint(worth[d] * 16 / unit)
            high = np.rint(weight / HIGH_PART_UNIT)
            lost += abs(worth[d] * 16 - weight * unit)
            total += weight
            at = d // (2 * GROUP_BYTES) * 4 * GROUP_BYTES + d % 2 * GROUP_BYTES + d % (2 * GROUP_BYTES) // 2
            weights[query, at], weights[query, at + 2 * GROUP_BYTES] = high, weight - HIGH_PART_UNIT * high
        terms[query, 0], terms[query, 1], terms[query, 2] = unit, within, whole
        terms[query, 3] = dot(centred, mean) - 7.5 * unit * total + 7.5 * lost

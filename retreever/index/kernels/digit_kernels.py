"""Upper bounds of 32 passages at a time from 4-bit digits, in the processor's widest arithmetic.

Codes lie in tiles of 32 passages: four bytes of each passage, one passage after the other, then the next four of each.
A vector register holds such a group of sixteen passages. One instruction (AVX-512 VNNI) multiplies its bytes with four
weights and adds the products for every passage. AVX2 takes three instructions for half as many passages. Without
either, the same sums are written as plain vector operations, which LLVM translates for the processor. Sums are of
integers, so they are the same on every machine.

A weight has 15 bits: a high part of 8 bits, in units of 128, and a low part.

The file is longer than most because numba's cache of a compiled loop is renewed only when the loop's own file changes:
the instructions and the loops that contain them must share one.
"""

from collections.abc import Iterable
from typing import Any, Literal

import llvmlite.binding as llvm
import numba
import numpy as np
from jaxtyping import UInt8
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

REGISTER_LANES = 16  # passages in a register
TILE_REGISTERS = 2  # registers of a tile, interleaved: one alone would wait for its own sums
TILE_PASSAGES = REGISTER_LANES * TILE_REGISTERS
GROUP_BYTES = 4  # bytes of a passage that lie together
PREFETCH_DISTANCE = 64  # registers by which memory is prefetched in advance; measured
HIGH_PART_UNIT = 128  # unit of the high part of a weight
LARGEST_WEIGHT = 127 * HIGH_PART_UNIT + 63

_i8, _i16, _i32, _f32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.FloatType()
_bytes, _ints, _floats = (
    ir.VectorType(_i8, 64),
    ir.VectorType(_i32, REGISTER_LANES),
    ir.VectorType(_f32, REGISTER_LANES),
)


def unpack_digits(tiles: UInt8[np.ndarray, "tiles bytes"], places: np.ndarray) -> UInt8[np.ndarray, "rows dims"]:
    """Digits of some places, below 16: the inverse of how `pack_rows` packs upper digits."""
    grouped = tiles.reshape(len(tiles), -1, TILE_PASSAGES, GROUP_BYTES)
    packed = grouped[places // TILE_PASSAGES, :, places % TILE_PASSAGES].reshape(len(places), -1)
    return np.stack([packed & 15, packed >> 4], axis=2).reshape(len(places), -1)


def detect_arithmetic() -> Literal["vnni", "avx2", "plain"]:
    """The widest arithmetic for sums of byte products that the processor has and numba's settings allow."""
    if config.CPU_NAME or config.CPU_FEATURES or not config.ENABLE_AVX:  # type: ignore[attr-defined]
        return "plain"
    features = llvm.get_host_cpu_features()
    if features.get("avx512vnni"):
        return "vnni"
    return "avx2" if features.get("avx2") else "plain"


def _emit_call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _emit_shuffle(builder: Any, vector: Any, lanes: Iterable[int], other: Any = None) -> Any:
    chosen = list(lanes)
    second = ir.Constant(vector.type, ir.Undefined) if other is None else other
    return builder.shuffle_vector(vector, second, ir.Constant(ir.VectorType(_i32, len(chosen)), chosen))


def _emit_dot(builder: Any, total: Any, digits: Any, weights: Any, by: str) -> Any:
    """total[i] += sum over four bytes j of digits[4 i + j] * weights[4 i + j], with unsigned digits.

    Digits are below 16 and weights below 128, so that sums of four products fit 16 bits.
    """
    if by == "vnni":
        words = [total, builder.bitcast(digits, _ints), builder.bitcast(weights, _ints)]
        return _emit_call(builder, "llvm.x86.avx512.vpdpbusd.512", _ints, words)
    if by == "avx2":
        halves = []
        for lanes in (range(32), range(32, 64)):
            pair = [_emit_shuffle(builder, digits, lanes), _emit_shuffle(builder, weights, lanes)]
            twos = _emit_call(builder, "llvm.x86.avx2.pmadd.ub.sw", ir.VectorType(_i16, 16), pair)
            ones = ir.Constant(twos.type, [1] * 16)
            halves.append(_emit_call(builder, "llvm.x86.avx2.pmadd.wd", ir.VectorType(_i32, 8), [twos, ones]))
        return builder.add(total, _emit_shuffle(builder, halves[0], range(REGISTER_LANES), halves[1]))
    shorts = ir.VectorType(_i16, 64)
    sums = builder.mul(builder.zext(digits, shorts), builder.sext(weights, shorts))
    for count in (32, 16):
        sums = builder.add(
            _emit_shuffle(builder, sums, range(0, 2 * count, 2)), _emit_shuffle(builder, sums, range(1, 2 * count, 2))
        )
    return builder.add(total, builder.sext(sums, _ints))


def _emit_splat(builder: Any, value: Any, kind: Any) -> Any:
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_i32, 0))
    return _emit_shuffle(builder, one, [0] * kind.count)


def _emit_pointer(context: Any, builder: Any, kind: Any, array: Any, offset: Any, pointed: Any) -> Any:
    """Pointer to the type `pointed` at element `offset` of a contiguous array."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), pointed.as_pointer())


def _emit_prefetch(builder: Any, pointer: Any) -> None:
    """Prefetch the cache line at an address; an address outside the array does no harm."""
    address = builder.bitcast(pointer, _i8.as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [address.type, _i32, _i32, _i32])
    how = [ir.Constant(_i32, value) for value in (0, 3, 1)]  # to read, to the nearest cache, data
    builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0"), [address, *how])


def _prefetch_intrinsic(typing: Any, array: Any, offset: Any) -> Any:
    """Prefetch the cache line of an element of a contiguous array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values, place = arguments
        _emit_prefetch(builder, _emit_pointer(context, builder, signature.args[0], values, place, _i8))
        return context.get_dummy_value()

    return types.void(array, offset), generate


prefetch_cache_line: Any = intrinsic(_prefetch_intrinsic)


def _emit_load(builder: Any, pointer: Any, index: Any) -> Any:
    """Load the number or vector at an index of a pointer."""
    return builder.load(builder.gep(pointer, [index]), align=1)


def _emit_weighted_sums(builder: Any, code: Any, weight: Any, groups: Any, by: str) -> list[Any]:
    """Weighted sums of a tile's digits, one <16 x i32> for each register."""
    totals = [
        [cgutils.alloca_once_value(builder, ir.Constant(_ints, [0] * REGISTER_LANES)) for _ in range(4)]
        for _ in range(TILE_REGISTERS)
    ]

    def number(value: int) -> Any:
        return ir.Constant(groups.type, value)

    with cgutils.for_range(builder, groups) as loop:
        first = builder.mul(loop.index, number(4))
        weights = [
            builder.bitcast(
                _emit_splat(builder, _emit_load(builder, weight, builder.add(first, number(i))), _ints), _bytes
            )
            for i in range(4)
        ]
        for register in range(TILE_REGISTERS):
            place = builder.add(builder.mul(loop.index, number(TILE_REGISTERS)), number(register))
            whole = _emit_load(builder, code, place)
            _emit_prefetch(builder, builder.gep(code, [builder.add(place, number(PREFETCH_DISTANCE))]))
            digits = [
                builder.and_(whole, ir.Constant(_bytes, [15] * 64)),
                builder.lshr(whole, ir.Constant(_bytes, [4] * 64)),
            ]
            for i, total in enumerate(totals[register]):
                builder.store(_emit_dot(builder, builder.load(total), digits[i % 2], weights[i], by), total)
    sums = []
    for own in totals:
        a, b, c, d = (builder.load(total) for total in own)
        high = builder.mul(builder.add(a, b), ir.Constant(_ints, [HIGH_PART_UNIT] * REGISTER_LANES))
        sums.append(builder.add(high, builder.add(c, d)))
    return sums


def make_tile_bounds(by: str) -> Any:
    """Make the intrinsic `bound_tile` in one arithmetic of this processor; see `detect_arithmetic`."""

    def bound_tile(
        typing: Any, codes: Any, tile: Any, groups: Any, weights: Any, base: Any, base_tile: Any, residuals: Any,
        places: Any, scales: Any, query: Any, threshold: Any, upper_bounds: Any,
    ) -> Any:  # fmt: skip
        """Upper bounds of the passages of a tile for one query. All arrays are contiguous.

        Args:
            codes: uint8, the tiles one after the other, `groups` * 4 bytes a passage.
            weights: int8, `groups` * 16 for each query.
            base, base_tile: float32, and the tile of it that belongs to the passages.
            residuals, places: uint8 (3, places), and the number of places.
            scales: float32, four for each query: factors of the weighted sum and of the first and second residual
                length, then a constant.
            query: which query's weights and scales to use.
            threshold: of the query.
            upper_bounds: receives the bounds, float32 (32,).

        Returns:
            A mask with one bit for each passage, set if its bound reaches the threshold.
        """
        size = types.intp
        signature = types.uint32(
            codes, size, size, weights, base, size, residuals, size, scales, size, types.float32, upper_bounds
        )  # fmt: skip

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            (codes, tile, groups, weights, base, base_tile, residuals, places,
             scales, query, threshold, upper_bounds) = arguments  # fmt: skip
            kinds = dict(zip(arguments, signature.args, strict=True))

            def times(value: Any, constant: int) -> Any:
                return builder.mul(value, ir.Constant(value.type, constant))

            def pointer(array: Any, offset: Any, pointed: Any) -> Any:
                return _emit_pointer(context, builder, kinds[array], array, offset, pointed)

            code = pointer(codes, times(builder.mul(tile, groups), TILE_PASSAGES * GROUP_BYTES), _bytes)
            weight = pointer(weights, times(builder.mul(query, groups), 4 * GROUP_BYTES), _i32)
            four = pointer(scales, times(query, 4), _f32)
            factor, inner, outer, constant = (
                _emit_splat(builder, _emit_load(builder, four, ir.Constant(_i32, i)), _floats) for i in range(4)
            )
            masks = []
            for register, sums in enumerate(_emit_weighted_sums(builder, code, weight, groups, by)):
                first, first_base = (
                    builder.add(times(own, TILE_PASSAGES), ir.Constant(own.type, register * REGISTER_LANES))
                    for own in (tile, base_tile)
                )
                bound = builder.load(pointer(base, first_base, _floats), align=1)
                bound = builder.fadd(bound, constant)
                bound = builder.fadd(bound, builder.fmul(builder.sitofp(sums, _floats), factor))
                for start, worth in ((first, inner), (builder.add(places, first), outer)):
                    length = builder.load(pointer(residuals, start, ir.VectorType(_i8, REGISTER_LANES)), align=1)
                    bound = builder.fadd(bound, builder.fmul(builder.uitofp(length, _floats), worth))
                builder.store(
                    bound, pointer(upper_bounds, ir.Constant(tile.type, register * REGISTER_LANES), _floats), align=1
                )
                reached = builder.bitcast(
                    builder.fcmp_ordered(">=", bound, _emit_splat(builder, threshold, _floats)), _i16
                )
                masks.append(builder.shl(builder.zext(reached, _i32), ir.Constant(_i32, register * REGISTER_LANES)))
            return builder.or_(*masks)

        return signature, generate

    return intrinsic(bound_tile)


bound_tile = make_tile_bounds(detect_arithmetic())


_plain = numba.njit(nogil=True, cache=True)
_fast = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})


@_plain
def scan_digits(
    block_codes: np.ndarray,
    base: np.ndarray,
    residuals: np.ndarray,
    alive: np.ndarray,
    order: np.ndarray,
    start: int,
    weights: np.ndarray,
    scales: np.ndarray,
    thresholds: np.ndarray,
    candidates: np.ndarray,
    upper_bounds: np.ndarray,
    counts: np.ndarray,
    added: np.ndarray,
) -> int:
    """Collect, for each query, the living places whose upper bound reaches the query's threshold.

    A block is read from memory once for all queries.

    Args:
        block_codes: tiles of digits, uint8 (blocks, bytes).
        base, residuals: by place, float32 (places,) and uint8 (3, places).
        alive: by place, uint8 (places,).
        order: blocks to scan from column `start` on, one row for each query or one for all; -1 is no block.
        weights, scales: of the queries, int8 (queries, groups * 16) and float32 (queries, 4); see `bound_tile`.
        thresholds: float32 (queries,).
        candidates, upper_bounds: receive places and their bounds, int32 and float32 (queries, capacity).
        counts: candidates of each query, int64 (queries,); new ones follow those that are there.
        added: added to the bounds, float32 (queries, places); no columns where nothing is.

    Returns:
        The column of `order` where the scan stopped: before a block that might overflow `candidates`, else the end.
    """
    queries, room, places = weights.shape[0], candidates.shape[1], base.shape[0]
    tiles = places // block_codes.shape[0] // TILE_PASSAGES
    groups = weights.shape[1] // (4 * GROUP_BYTES)
    codes, own, four, lengths = block_codes.reshape(-1), weights.reshape(-1), scales.reshape(-1), residuals.reshape(-1)
    bound, sums = np.empty(TILE_PASSAGES, np.float32), np.empty(tiles * TILE_PASSAGES, np.float32)
    for position in range(start, order.shape[1]):
        if counts.max() + tiles * TILE_PASSAGES > room:
            return position
        for query in range(queries):
            first = order[min(query, order.shape[0] - 1), position] * tiles
            if first < 0:
                continue
            threshold, count = thresholds[query], counts[query]
            bases, first_base = base, first
            if added.shape[1]:
                for i in range(sums.shape[0]):
                    sums[i] = base[first * TILE_PASSAGES + i] + added[query, first * TILE_PASSAGES + i]
                bases, first_base = sums, 0
            for tile in range(first, first + tiles):
                mask = bound_tile(
                    codes, tile, groups, own, bases, first_base + tile - first, lengths, places, four, query,
                    threshold, bound,
                )  # fmt: skip
                if mask:
                    for i in range(TILE_PASSAGES):
                        if (mask >> np.uint32(i)) & np.uint32(1) and alive[tile * TILE_PASSAGES + i]:
                            candidates[query, count], upper_bounds[query, count] = tile * TILE_PASSAGES + i, bound[i]
                            count += 1
            counts[query] = count
    return order.shape[1]


@_plain
def bound_digits(
    block_codes: np.ndarray,
    base: np.ndarray,
    residuals: np.ndarray,
    weights: np.ndarray,
    scales: np.ndarray,
    factors: np.ndarray,
    bounds: np.ndarray,
) -> None:
    """Add the upper bounds of all places, times `factors`, float32 (queries,), to `bounds`, float32 (queries, places).

    The other arguments are as in `scan_digits`.
    """
    places, groups = base.shape[0], weights.shape[1] // (4 * GROUP_BYTES)
    codes, own, four, lengths = block_codes.reshape(-1), weights.reshape(-1), scales.reshape(-1), residuals.reshape(-1)
    bound = np.empty(TILE_PASSAGES, np.float32)
    for query in range(weights.shape[0]):
        for tile in range(places // TILE_PASSAGES):
            bound_tile(
                codes, tile, groups, own, base, tile, lengths, places, four, query, np.float32(np.inf), bound
            )  # fmt: skip
            for i in range(TILE_PASSAGES):
                bounds[query, tile * TILE_PASSAGES + i] += factors[query] * bound[i]


@_fast
def _sum_lower_digits(low: np.ndarray, steps: np.ndarray) -> np.float32:
    total = np.float32(0)
    for j in range(low.shape[0]):
        total += steps[2 * j] * np.float32(low[j] & 15) + steps[2 * j + 1] * np.float32(low[j] >> 4)
    return total


@_plain
def refine_digits(
    low: np.ndarray,
    residuals: np.ndarray,
    steps: np.ndarray,
    coarse: np.ndarray,
    fine: np.ndarray,
    thresholds: np.ndarray,
    candidates: np.ndarray,
    upper_bounds: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Tighten the bounds of the candidates of each query by the lower digits.

    Args:
        low: lower digits, two a byte, uint8 (places, dims / 2).
        residuals: as in `scan_digits`.
        steps: weights of the lower digits, then a constant, float32 (queries, dims + 1).
        coarse, fine: factors of the first residual length, which is subtracted, and of the third, which is added
            instead, float32 (queries,).
        thresholds, candidates, upper_bounds, counts: as in `scan_digits`; survivors move to the front.
    """
    for query in range(counts.shape[0]):
        kept, own = 0, steps[query]
        for i in range(counts[query]):
            place = candidates[query, i]
            tighter = fine[query] * np.float32(residuals[2, place]) - coarse[query] * np.float32(residuals[0, place])
            bound = upper_bounds[query, i] + _sum_lower_digits(low[place], own) + own[-1] + tighter
            if bound >= thresholds[query]:
                candidates[query, kept], upper_bounds[query, kept] = place, bound
                kept += 1
        counts[query] = kept

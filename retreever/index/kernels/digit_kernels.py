"""Bounds of 32 passages at a time from digits of four bits, in the widest arithmetic the processor has.

Codes lie in blocks of passages: four bytes of each passage after one another, then the next four of each. A vector
register holds such a group of sixteen passages, and one instruction (AVX-512 VNNI) multiplies its bytes with four
weights and adds up the products of every passage. AVX2 takes three instructions for half as many; without either the
same sums are written as plain vector operations, which LLVM translates to whatever there is. Sums are of integers, so
they are the same on every machine.

A weight has 15 bits, kept as a high part of 8 bits, worth 128, and a low part.
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

LANES = 16  # passages of a register
REGISTERS = 2  # of a block, side by side: one alone would wait for its own sums
BLOCK = LANES * REGISTERS
GROUP = 4  # bytes of a passage that lie together
AHEAD = 64  # registers: how far before it is needed memory is asked for; measured
HIGH = 128  # what the high part of a weight is worth
WEIGHT = 127 * HIGH + 63  # largest weight

_i8, _i16, _i32, _f32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.FloatType()
_bytes, _ints, _floats = ir.VectorType(_i8, 64), ir.VectorType(_i32, LANES), ir.VectorType(_f32, LANES)


def digits_at(blocks: UInt8[np.ndarray, "blocks bytes"], places: np.ndarray) -> UInt8[np.ndarray, "rows dims"]:
    """The digits of some places again."""
    grouped = blocks.reshape(len(blocks), -1, BLOCK, GROUP)
    packed = grouped[places // BLOCK, :, places % BLOCK].reshape(len(places), -1)
    return np.stack([packed & 15, packed >> 4], axis=2).reshape(len(places), -1)


def arithmetic() -> Literal["vnni", "avx2", "plain"]:
    """What this processor multiplies and adds bytes with, where numba may use what it has."""
    if config.CPU_NAME or config.CPU_FEATURES or not config.ENABLE_AVX:  # type: ignore[attr-defined]
        return "plain"
    features = llvm.get_host_cpu_features()
    if features.get("avx512vnni"):
        return "vnni"
    return "avx2" if features.get("avx2") else "plain"


def _called(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _picked(builder: Any, vector: Any, lanes: Iterable[int], other: Any = None) -> Any:
    chosen = list(lanes)
    second = ir.Constant(vector.type, ir.Undefined) if other is None else other
    return builder.shuffle_vector(vector, second, ir.Constant(ir.VectorType(_i32, len(chosen)), chosen))


def _dotted(builder: Any, total: Any, digits: Any, weights: Any, by: str) -> Any:
    """total[i] += sum over four bytes j of digits[4 i + j] * weights[4 i + j], digits without a sign.

    Digits are below 16 and weights below 128, so that sums of four products fit 16 bits.
    """
    if by == "vnni":
        words = [total, builder.bitcast(digits, _ints), builder.bitcast(weights, _ints)]
        return _called(builder, "llvm.x86.avx512.vpdpbusd.512", _ints, words)
    if by == "avx2":
        halves = []
        for lanes in (range(32), range(32, 64)):
            pair = [_picked(builder, digits, lanes), _picked(builder, weights, lanes)]
            twos = _called(builder, "llvm.x86.avx2.pmadd.ub.sw", ir.VectorType(_i16, 16), pair)
            ones = ir.Constant(twos.type, [1] * 16)
            halves.append(_called(builder, "llvm.x86.avx2.pmadd.wd", ir.VectorType(_i32, 8), [twos, ones]))
        return builder.add(total, _picked(builder, halves[0], range(LANES), halves[1]))
    shorts = ir.VectorType(_i16, 64)
    sums = builder.mul(builder.zext(digits, shorts), builder.sext(weights, shorts))
    for count in (32, 16):
        sums = builder.add(
            _picked(builder, sums, range(0, 2 * count, 2)), _picked(builder, sums, range(1, 2 * count, 2))
        )
    return builder.add(total, builder.sext(sums, _ints))


def _splat(builder: Any, value: Any, kind: Any) -> Any:
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_i32, 0))
    return _picked(builder, one, [0] * kind.count)


def _place(context: Any, builder: Any, kind: Any, array: Any, offset: Any, pointed: Any) -> Any:
    """Pointer to `pointed` at the element `offset` of a contiguous array."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), pointed.as_pointer())


def _prefetch(builder: Any, pointer: Any) -> None:
    """Have memory read before it is needed; an address that is not ours does no harm."""
    address = builder.bitcast(pointer, _i8.as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [address.type, _i32, _i32, _i32])
    how = [ir.Constant(_i32, value) for value in (0, 3, 1)]  # to read, to the nearest cache, data
    builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0"), [address, *how])


def _prefetched(typing: Any, array: Any, offset: Any) -> Any:
    """Have the cache line of an element of a contiguous array read before it is needed."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values, place = arguments
        _prefetch(builder, _place(context, builder, signature.args[0], values, place, _i8))
        return context.get_dummy_value()

    return types.void(array, offset), generate


prefetch: Any = intrinsic(_prefetched)


def _at(builder: Any, pointer: Any, index: Any) -> Any:
    """What a pointer to numbers or vectors has at an index."""
    return builder.load(builder.gep(pointer, [index]), align=1)


def _sums(builder: Any, code: Any, weight: Any, groups: Any, by: str) -> list[Any]:
    """The weighted sums of a block's digits, <16 x i32> a register."""
    totals = [
        [cgutils.alloca_once_value(builder, ir.Constant(_ints, [0] * LANES)) for _ in range(4)]
        for _ in range(REGISTERS)
    ]

    def number(value: int) -> Any:
        return ir.Constant(groups.type, value)

    with cgutils.for_range(builder, groups) as loop:
        first = builder.mul(loop.index, number(4))
        weights = [
            builder.bitcast(_splat(builder, _at(builder, weight, builder.add(first, number(i))), _ints), _bytes)
            for i in range(4)
        ]
        for register in range(REGISTERS):
            place = builder.add(builder.mul(loop.index, number(REGISTERS)), number(register))
            whole = _at(builder, code, place)
            _prefetch(builder, builder.gep(code, [builder.add(place, number(AHEAD))]))
            digits = [
                builder.and_(whole, ir.Constant(_bytes, [15] * 64)),
                builder.lshr(whole, ir.Constant(_bytes, [4] * 64)),
            ]
            for i, total in enumerate(totals[register]):
                builder.store(_dotted(builder, builder.load(total), digits[i % 2], weights[i], by), total)
    sums = []
    for own in totals:
        a, b, c, d = (builder.load(total) for total in own)
        high = builder.mul(builder.add(a, b), ir.Constant(_ints, [HIGH] * LANES))
        sums.append(builder.add(high, builder.add(c, d)))
    return sums


def bounding(by: str) -> Any:
    """The function `bounds` in an arithmetic of this processor."""

    def bounds(
        typing: Any, codes: Any, block: Any, groups: Any, weights: Any, base: Any, beside: Any, places: Any,
        numbers: Any, query: Any, floor: Any, above: Any,
    ) -> Any:  # fmt: skip
        """Upper bounds of the passages of a block, for one query of several. All arrays are contiguous.

        Args:
            codes: uint8, blocks.
            weights: int8, `groups` * 16 a query.
            base, beside, places: float32 (places,), uint8 (3, places), and how many places there are.
            numbers: float32, four a query: what a unit of the sums, of the first and of the second number in `beside`
                adds, and what is added to all.
            query: whose weights and numbers count.
            floor: bounds are compared with it.
            above: receives the bounds, float32 (32,).

        Returns:
            A bit a passage: whether its bound reaches the floor.
        """
        size = types.intp
        signature = types.uint32(
            codes, size, size, weights, base, beside, size, numbers, size, types.float32, above
        )  # fmt: skip

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            codes, block, groups, weights, base, beside, places, numbers, query, floor, above = arguments
            kinds = dict(zip(arguments, signature.args, strict=True))

            def times(value: Any, constant: int) -> Any:
                return builder.mul(value, ir.Constant(value.type, constant))

            def pointer(array: Any, offset: Any, pointed: Any) -> Any:
                return _place(context, builder, kinds[array], array, offset, pointed)

            code = pointer(codes, times(builder.mul(block, groups), BLOCK * GROUP), _bytes)
            weight = pointer(weights, times(builder.mul(query, groups), 4 * GROUP), _i32)
            four = pointer(numbers, times(query, 4), _f32)
            factor, inner, outer, constant = (
                _splat(builder, _at(builder, four, ir.Constant(_i32, i)), _floats) for i in range(4)
            )
            masks = []
            for register, sums in enumerate(_sums(builder, code, weight, groups, by)):
                first = builder.add(times(block, BLOCK), ir.Constant(block.type, register * LANES))
                bound = builder.load(pointer(base, first, _floats), align=1)
                bound = builder.fadd(bound, constant)
                bound = builder.fadd(bound, builder.fmul(builder.sitofp(sums, _floats), factor))
                for start, worth in ((first, inner), (builder.add(places, first), outer)):
                    length = builder.load(pointer(beside, start, ir.VectorType(_i8, LANES)), align=1)
                    bound = builder.fadd(bound, builder.fmul(builder.uitofp(length, _floats), worth))
                builder.store(bound, pointer(above, ir.Constant(block.type, register * LANES), _floats), align=1)
                reached = builder.bitcast(builder.fcmp_ordered(">=", bound, _splat(builder, floor, _floats)), _i16)
                masks.append(builder.shl(builder.zext(reached, _i32), ir.Constant(_i32, register * LANES)))
            return builder.or_(*masks)

        return signature, generate

    return intrinsic(bounds)


bounds = bounding(arithmetic())


_plain = numba.njit(nogil=True, cache=True)
_fast = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})


@_plain
def scan_digits(
    strips: np.ndarray,
    base: np.ndarray,
    beside: np.ndarray,
    alive: np.ndarray,
    order: np.ndarray,
    start: int,
    weights: np.ndarray,
    numbers: np.ndarray,
    floors: np.ndarray,
    found: np.ndarray,
    above: np.ndarray,
    counts: np.ndarray,
) -> int:
    """Collect, for each of several queries, the places whose upper bound reaches the query's floor.

    A strip is read from memory once for all queries.

    Args:
        strips: blocks of digits, uint8 (strips, bytes).
        base, beside: of every place, float32 (places,) and uint8 (3, places).
        alive: whether a place counts, uint8 (places,).
        order: strips that each query looks at, (queries, strips), or all of them, (1, strips), from `start` on; there
            is none where it says -1.
        weights, numbers: of the queries, int8 (queries, groups * 16) and float32 (queries, 4), see `bounds`.
        floors: float32 (queries,).
        found, above: receive places and their bounds, int32 and float32 (queries, room).
        counts: how many there are of each query, int64 (queries,); goes on from what it says.

    Returns:
        Where in `order` it stopped: before a strip that might not have found room; at the end otherwise.
    """
    queries, room, places = weights.shape[0], found.shape[1], base.shape[0]
    blocks = places // strips.shape[0] // BLOCK
    groups = weights.shape[1] // (4 * GROUP)
    codes, own, four, lengths = strips.reshape(-1), weights.reshape(-1), numbers.reshape(-1), beside.reshape(-1)
    bound = np.empty(BLOCK, np.float32)
    for position in range(start, order.shape[1]):
        if counts.max() + blocks * BLOCK > room:
            return position
        for query in range(queries):
            first = order[min(query, order.shape[0] - 1), position] * blocks
            if first < 0:
                continue
            floor, count = floors[query], counts[query]
            for block in range(first, first + blocks):
                mask = bounds(codes, block, groups, own, base, lengths, places, four, query, floor, bound)
                if mask:
                    for i in range(BLOCK):
                        if (mask >> np.uint32(i)) & np.uint32(1) and alive[block * BLOCK + i]:
                            found[query, count], above[query, count] = block * BLOCK + i, bound[i]
                            count += 1
            counts[query] = count
    return order.shape[1]


@_fast
def _lower(low: np.ndarray, steps: np.ndarray) -> np.float32:
    total = np.float32(0)
    for j in range(low.shape[0]):
        total += steps[2 * j] * np.float32(low[j] & 15) + steps[2 * j + 1] * np.float32(low[j] >> 4)
    return total


@_plain
def refine_digits(
    low: np.ndarray,
    beside: np.ndarray,
    steps: np.ndarray,
    coarse: np.ndarray,
    fine: np.ndarray,
    floors: np.ndarray,
    found: np.ndarray,
    above: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Tighten what several queries have found by the lower digits.

    Args:
        low: lower 4 bits of every digit, uint8 (places, dims / 2).
        beside: as in the scan.
        steps: what a unit of a lower digit is worth to a query, float32 (queries, dims), then what is added to all.
        coarse, fine: what a unit of the first number in `beside` had added, and a unit of the third adds instead,
            float32 (queries,).
        floors, found, above, counts: as in the scan; what reaches its floor still goes to the front.
    """
    for query in range(counts.shape[0]):
        kept, own = 0, steps[query]
        for i in range(counts[query]):
            place = found[query, i]
            tighter = fine[query] * np.float32(beside[2, place]) - coarse[query] * np.float32(beside[0, place])
            bound = above[query, i] + _lower(low[place], own) + own[-1] + tighter
            if bound >= floors[query]:
                found[query, kept], above[query, kept] = place, bound
                kept += 1
        counts[query] = kept

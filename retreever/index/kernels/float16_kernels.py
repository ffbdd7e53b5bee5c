"""float16 numbers and vectors, as their bits, to float32 and back; numba has none on the CPU.

The processor's instruction does it where there is one, shifts of bits elsewhere. Both give the same results, for
numbers that are not negative.
"""

from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config
from numba.extending import intrinsic, overload

from retreever.system.threads import map_in_threads

NARROWING_CHUNK_ROWS = 2_048  # rows that a thread narrows at a time

_plain = numba.njit(nogil=True, cache=True)


def has_native_float16() -> bool:
    """Whether the processor has instructions for float16, and numba's settings allow them."""
    if config.CPU_NAME or config.CPU_FEATURES or not config.ENABLE_AVX:  # type: ignore[attr-defined]
        return False
    return bool(llvm.get_host_cpu_features().get("f16c"))


@intrinsic
def _narrow_by_instruction(context: Any, value: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), code


@intrinsic
def _widen_by_instruction(context: Any, bits: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), code


@numba.njit(inline="always")
def narrow_by_shifts(value: np.float32) -> np.uint16:
    """Bits of the float16 nearest to a float32, ties to even.

    The exponent biases differ by 112, which is subtracted before the shift. Subnormal numbers are whole multiples of
    2**-24.
    """
    bits = np.float32(value).view(np.uint32)
    even = np.uint32((bits >> np.uint32(13)) & np.uint32(1))
    shifted = np.uint32(bits + np.uint32(0xFFF) + even - np.uint32(112 << 23)) >> np.uint32(13)
    small = np.uint32(np.int32(np.rint(value * np.float32(2.0**24))))
    return np.uint16(shifted if value >= np.float32(2.0**-14) else small)


@numba.njit(inline="always")
def widen_by_shifts(half: np.uint16) -> np.float32:
    """The float32 of a float16's bits, exactly: the inverse of `narrow_by_shifts`."""
    bits = np.uint32(half)
    shifted = np.uint32((bits << np.uint32(13)) + np.uint32(112 << 23)).view(np.float32)
    return shifted if bits >= np.uint32(0x400) else np.float32(np.int32(bits)) * np.float32(2.0**-24)


narrow_to_float16: Any = _narrow_by_instruction if has_native_float16() else narrow_by_shifts
widen_to_float32: Any = _widen_by_instruction if has_native_float16() else widen_by_shifts


def widen(stored: Any, out: Any) -> Any:
    """Write a stored vector as float32, exactly; it is float32, or float16 given as bits (uint16), none negative."""
    out[:] = stored.view(np.float16) if stored.dtype == np.uint16 else stored


@overload(widen)
def _widen(stored: Any, out: Any) -> Any:
    def halves(stored: Any, out: Any) -> Any:
        for leaf in range(stored.shape[0]):
            out[leaf] = widen_to_float32(stored[leaf])

    def whole(stored: Any, out: Any) -> Any:
        out[:] = stored

    return halves if stored.dtype == numba.types.uint16 else whole


@_plain
def _widen_rows(stored: np.ndarray, out: np.ndarray) -> None:
    for row in range(stored.shape[0]):
        widen(stored[row], out[row])


@_plain
def _find_largest(bits: np.ndarray) -> np.uint32:
    largest = np.uint32(0)
    for column in range(bits.shape[0]):
        largest = max(largest, bits[column])
    return largest


@_plain
def _narrow_rows(values: np.ndarray, first: int, roots: bool, out: np.ndarray) -> np.uint32:
    width = out.shape[1]
    largest = np.uint32(0)
    for row in range(values.shape[0]):
        largest = max(largest, _find_largest(values[row].view(np.uint32)))
        own, narrow = values[row, first : first + width], out[row]
        if roots:
            for leaf in range(width):
                narrow[leaf] = narrow_to_float16(np.sqrt(np.abs(own[leaf])))
        else:
            for leaf in range(width):
                narrow[leaf] = narrow_to_float16(np.abs(own[leaf]))  # a zero may be negative
    return largest


def narrow_rows(probabilities: np.ndarray, first: int, roots: bool, out: np.ndarray) -> np.uint32:
    """Write some columns of probabilities, or their square roots, as float16: the nearest, ties to even.

    Args:
        first: first column; there are as many as `out` has.
        roots: write square roots.

    Returns:
        `find_largest_bits` of all columns, computed in passing so that memory is read once.
    """
    whole, bits = np.ascontiguousarray(probabilities, np.float32), out.view(np.uint16)
    parts = [slice(start, start + NARROWING_CHUNK_ROWS) for start in range(0, len(out), NARROWING_CHUNK_ROWS)]
    return max(
        map_in_threads(lambda rows: _narrow_rows(whole[rows], first, roots, bits[rows]), parts), default=np.uint32(0)
    )


@_plain
def find_largest_bits(values: np.ndarray) -> np.uint32:
    """The largest bit pattern of float32 numbers.

    Bit patterns are ordered like the numbers; negative numbers, infinity and NaN come above all finite positive ones.
    """
    largest = np.uint32(0)
    for row in range(values.shape[0]):
        largest = max(largest, _find_largest(values[row].view(np.uint32)))
    return largest


def widen_rows(stored: np.ndarray, out: np.ndarray) -> None:
    """Write stored vectors, float32 or float16 (rows, nodes), as float32."""
    if stored.dtype == np.float32:
        out[:] = stored
    else:
        _widen_rows(stored.view(np.uint16), out)

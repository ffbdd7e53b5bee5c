"""float16 numbers as their bits, to float32 and back, where numba knows none: by the processor's own instruction if it
has one, otherwise by moving bits. Both round alike and take numbers that are not negative."""

from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config
from numba.extending import intrinsic


def native() -> bool:
    """Whether this processor converts float16, and numba may use what it has."""
    if config.CPU_NAME or config.CPU_FEATURES or not config.ENABLE_AVX:  # type: ignore[attr-defined]
        return False
    return bool(llvm.get_host_cpu_features().get("f16c"))


@intrinsic
def _instructed_half(context: Any, value: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), code


@intrinsic
def _instructed_single(context: Any, bits: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), code


@numba.njit(inline="always")
def moved_half(value: np.float32) -> np.uint16:
    """Bits of the float16 nearest to a float32, ties to even.

    Moved to float16's place, the bits have the difference of the two exponent biases, 112, too much. The smallest
    numbers are whole multiples of 2**-24.
    """
    bits = np.float32(value).view(np.uint32)
    even = np.uint32((bits >> np.uint32(13)) & np.uint32(1))
    moved = np.uint32(bits + np.uint32(0xFFF) + even - np.uint32(112 << 23)) >> np.uint32(13)
    small = np.uint32(np.int32(np.rint(value * np.float32(2.0**24))))
    return np.uint16(moved if value >= np.float32(2.0**-14) else small)


@numba.njit(inline="always")
def moved_single(half: np.uint16) -> np.float32:
    """The float32 that a float16's bits stand for, exactly; see `moved_half`."""
    bits = np.uint32(half)
    moved = np.uint32((bits << np.uint32(13)) + np.uint32(112 << 23)).view(np.float32)
    return moved if bits >= np.uint32(0x400) else np.float32(np.int32(bits)) * np.float32(2.0**-24)


half: Any = _instructed_half if native() else moved_half
single: Any = _instructed_single if native() else moved_single

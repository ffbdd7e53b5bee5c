"""float16 as bits: the processor's instruction and the shifts give numpy's results."""

import numba
import numpy as np
import pytest

from retreever.index.kernels import float16_kernels

WAYS = ["shifts"] + ["instruction"] * float16_kernels.has_native_float16()
FINITE = np.arange(0x7C00, dtype=np.uint16)  # all that are not negative


def convert_all(convert, values, kind):
    @numba.njit
    def run(values, out):
        for i in range(values.shape[0]):
            out[i] = convert(values[i])

    out = np.empty(len(values), kind)
    run(values, out)
    return out


@pytest.mark.parametrize("way", WAYS)
def test_all_numbers_widen_exactly(way):
    convert = float16_kernels.widen_by_shifts if way == "shifts" else float16_kernels._widen_by_instruction
    assert np.array_equal(convert_all(convert, FINITE, np.float32), FINITE.view(np.float16).astype(np.float32))


@pytest.mark.parametrize("way", WAYS)
def test_numbers_narrow_to_the_nearest_and_ties_to_even(way):
    convert = float16_kernels.narrow_by_shifts if way == "shifts" else float16_kernels._narrow_by_instruction
    exact = FINITE.view(np.float16).astype(np.float32)
    between = (exact[1:] + exact[:-1]) / 2
    values = np.concatenate([exact, between, np.nextafter(between, 0), np.nextafter(between, np.float32(9e9))])
    values = values[values <= 1.5]  # probabilities and their roots
    assert np.array_equal(convert_all(convert, values, np.uint16), values.astype(np.float16).view(np.uint16))

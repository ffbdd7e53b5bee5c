"""Where products in bfloat16 are faster than in float32: on a GPU, and on a CPU with matrix units for them."""

import torch


def bfloat16_is_fast(device: str) -> bool:
    """Whether a device, a name of torch, multiplies bfloat16 numbers faster than float32.

    AVX-512's instructions for bfloat16 alone, as where a virtual machine hides the matrix units (AMX), do not count:
    they reach half of float32's speed on such an Intel processor (167 and 319 GFLOP/s on 2 cores).
    """
    return device != "cpu" or bool(torch.cpu.get_capabilities().get("amx_bf16", False))

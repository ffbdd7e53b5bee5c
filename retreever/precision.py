"""Where products in bfloat16 are faster than in float32: on a GPU, and on a CPU with instructions for them."""

import torch


def bfloat16_is_fast(device: str) -> bool:
    """Whether a device, a name of torch, multiplies bfloat16 numbers faster than float32."""
    if device != "cpu":
        return True
    ask = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch's own name for it may change
    return ask is not None and bool(ask())

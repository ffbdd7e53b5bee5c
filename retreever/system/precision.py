"""Where products in bfloat16 are faster than in float32: on a GPU, and on a CPU with wide instructions for them."""

import torch


def bfloat16_is_fast(device: str) -> bool:
    """Whether a device, a name of torch, multiplies bfloat16 numbers faster than float32.

    On a CPU: with Intel's matrix units (AMX), and with AVX-512's instructions for bfloat16 on an AMD processor, where
    they reach twice float32's speed (416 and 194 GFLOP/s on 2 cores). An Intel processor whose matrix units a virtual
    machine hides has the same instructions and reaches half of it (167 and 319), so they do not count there.
    """
    if device != "cpu":
        return True
    has = torch.cpu.get_capabilities()
    amd = str(has.get("cpu_name", "")).startswith("AMD")
    return bool(has.get("amx_bf16", False) or (amd and has.get("avx512_bf16", False)))

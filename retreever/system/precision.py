"""Devices that multiply bfloat16 faster than float32: GPUs, and CPUs with wide instructions for it."""

import torch


def bfloat16_is_fast(device: str) -> bool:
    """Whether `device` (a torch device name) multiplies bfloat16 numbers faster than float32.

    A CPU does with Intel's matrix units (AMX), or with AVX-512's bfloat16 instructions on an AMD processor, where they
    reach twice float32's speed (416 and 194 GFLOP/s on 2 cores). An Intel processor whose matrix units a virtual
    machine hides has these instructions too, but reaches half of float32's speed (167 and 319), so it does not count.
    """
    if device != "cpu":
        return True
    has = torch.cpu.get_capabilities()
    amd = str(has.get("cpu_name", "")).startswith("AMD")
    return bool(has.get("amx_bf16", False) or (amd and has.get("avx512_bf16", False)))

"""Devices, and which of them multiply bfloat16 faster than float32: GPUs, and CPUs with wide instructions for it.

Both are told without torch on a machine that has no GPU.
"""

import functools
import os
import sys
from pathlib import Path

PROCESSOR_FILE = Path("/proc/cpuinfo")
GPU_DRIVER_FILES = ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg", "/dev/kfd")  # NVIDIA, Jetson, WSL, AMD


def find_device() -> str:
    """`cuda` where torch finds such a device, else `cpu`; torch is imported only where a GPU's driver is."""
    if os.name == "posix" and "torch" not in sys.modules and not any(map(os.path.exists, GPU_DRIVER_FILES)):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def bfloat16_is_fast(device: str) -> bool:
    """Whether `device` (a torch device name) multiplies bfloat16 numbers faster than float32.

    A CPU does with Intel's matrix units (AMX), or with AVX-512's bfloat16 instructions on an AMD processor, where they
    reach twice float32's speed (416 and 194 GFLOP/s on 2 cores). An Intel processor whose matrix units a virtual
    machine hides has these instructions too, but reaches half of float32's speed (167 and 319), so it does not count.
    """
    if device != "cpu":
        return True
    has = read_processor()
    flags = has.get("flags", "").split()
    return "amx_bf16" in flags or (has.get("vendor_id") == "AuthenticAMD" and "avx512_bf16" in flags)


@functools.cache
def read_processor() -> dict[str, str]:
    """What the Linux kernel tells of the first processor, by its names, e.g. `model name`; nothing on other systems."""
    if not PROCESSOR_FILE.is_file():
        return {}
    first = PROCESSOR_FILE.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}

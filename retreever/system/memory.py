"""Freed memory stays with the process for the next step, where the C library is glibc.

A training step, or a chunk of an index, makes and frees matrices of some megabytes. glibc may give the end of its heap
back to the system after each, and every page that comes anew is zeroed and mapped again. Its own threshold grows with
the largest block freed so far, so that it depends on what a process did before whether a step pays for that.
"""

import ctypes
import os
import sys

# Numbers of glibc's malloc.h, and what they are set to in bytes.
SETTINGS = {
    -1: 2**30,  # M_TRIM_THRESHOLD: so much may lie free at the heap's end
    -3: 2**26,  # M_MMAP_THRESHOLD: larger blocks are mapped one by one, and given back when they are freed
}


def keep_freed() -> bool:
    """Have this process keep up to 1 GiB of freed memory; tell whether it does.

    It does not where the C library knows no such setting, or the user has one of their own in `MALLOC_*` or
    `GLIBC_TUNABLES`.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in SETTINGS.items())

"""Freed memory kept in the process for the next step, where the C library is glibc.

A training step, or a chunk of an index, allocates and frees matrices of some megabytes. glibc may return the end of its
heap to the system after each, and the system zeroes and maps every new page again. glibc's threshold grows with the
largest block freed so far, so the cost of a step depends on the process's history.
"""

import ctypes
import os
import sys

# Option numbers of glibc's malloc.h, and their values in bytes.
MALLOC_OPTIONS = {
    -1: 2**30,  # M_TRIM_THRESHOLD: free memory allowed at the heap's end
    -3: 2**26,  # M_MMAP_THRESHOLD: larger blocks are mapped one by one, and returned when freed
}


def keep_freed_memory() -> bool:
    """Make this process keep up to 1 GiB of freed memory; return whether it does.

    It does not where the C library has no such option, or where the user sets `MALLOC_*` or `GLIBC_TUNABLES`.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in MALLOC_OPTIONS.items())

"""Freed memory is kept where the C library can: no page faults again, and the user's own settings win."""

import os
import platform
import subprocess
import sys

import pytest

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these options")

FAULTS = """
import resource
import numpy as np
from retreever.system.memory import keep_freed_memory

kept = {keep} and keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for step in range(8):
    before = faults()
    blocks = [np.ones(2**20) for _ in range(6)]
    del blocks
print(kept, faults() - before)
"""


def run(keep: bool, **environment: str) -> tuple[bool, int]:
    """Whether freed memory is kept, and the page faults of the last of some equal steps."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", FAULTS.format(keep=keep)]
    kept, faults = subprocess.check_output(command, text=True, env=clean | environment).split()
    return kept == "True", int(faults)


@glibc
def test_a_step_reuses_the_memory_of_the_one_before():
    assert run(keep=True) == (True, pytest.approx(0, abs=100))
    assert run(keep=False)[1] > 1000


@glibc
def test_the_settings_of_the_user_win():
    assert not run(keep=True, MALLOC_TRIM_THRESHOLD_="131072")[0]

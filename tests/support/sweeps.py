"""Sweeps as processes of their own, to be interrupted and killed."""

import os
import subprocess
import sys
import time


def start(file, workspace):
    """`jobs.sweep FILE` in a process group of its own, its streams piped."""
    command = [sys.executable, "-m", "jobs.sweep", str(file), "--workspace", str(workspace.root), "--json"]
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTEST"))}
    return subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_until(found, seconds, process=None):
    """What `found` returns, once it is true; the process must live meanwhile."""
    for _ in range(seconds * 10):
        if result := found():
            return result
        assert process is None or process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    raise AssertionError("it did not come to that in time")

"""Sweeps in their own processes, which tests interrupt and kill."""

import os
import subprocess
import sys
import time


def start(file, workspace):
    """Start `jobs.sweep FILE` in its own process group, with its streams piped."""
    command = [sys.executable, "-m", "jobs.sweep", str(file), "--workspace", str(workspace.root), "--json"]
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTEST"))}
    return subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_until(found, seconds, process=None):
    """Call `found` until it returns something true, and return that; the process must not end meanwhile."""
    for _ in range(seconds * 10):
        if result := found():
            return result
        assert process is None or process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    raise AssertionError(f"not true within {seconds} s")

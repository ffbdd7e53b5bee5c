"""A small process that outlives a killed driver and ends what that driver can no longer end.

The driver holds a pipe to it. When the pipe closes without a word, the driver was killed: the runs under its MLflow
parent that still say RUNNING are ended as KILLED, unless another driver has taken the folder over meanwhile.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retreever.errors import ConfigError
from retreever.system.lock import held

DONE = b"done"
SETTLE = 3.0
"""Seconds until the killed driver's workers, which may still be writing, are gone."""


@contextmanager
def watched(folder: Path, uri: str, parent: str) -> Iterator[None]:
    """Watch over the body; `folder` is the one that this process holds."""
    command = [sys.executable, "-m", "retreever.tracking.watchdog", str(folder), uri, parent]
    # a session of its own: Ctrl-C reaches every process of a terminal's group
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        process.communicate(DONE)


def main(folder: str, uri: str, parent: str) -> None:
    """Wait for the driver's end; clean up after a killed one."""
    if sys.stdin.buffer.read() == DONE:
        return
    from retreever.tracking.tracker import Tracker  # brings mlflow, of which a watchdog that has nothing to do is free

    tracker = Tracker(uri)
    try:
        with held(Path(folder), "sweep", patience=0):
            for _ in range(2):
                tracker.end_orphans(parent)
                tracker.end(parent, "KILLED")
                time.sleep(SETTLE)
            tracker.end_orphans(parent)
    except ConfigError:
        return  # the same command has been given again and takes care of it


if __name__ == "__main__":
    main(*sys.argv[1:])

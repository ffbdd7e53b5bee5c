"""A small process that outlives a killed driver and ends the MLflow runs that the driver can no longer end.

The driver holds a pipe to the watchdog. If the pipe closes without a message, the driver was killed. Then the watchdog
ends the runs under the driver's parent run as KILLED, unless another driver has locked the folder meanwhile.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retreever.errors import ConfigError
from retreever.system.lock import lock_folder

DONE_MESSAGE = b"done"
SETTLE_SECONDS = 3.0
"""Seconds until the workers of a killed driver, which may still be writing, are gone."""


@contextmanager
def watch_driver(folder: Path, uri: str, parent: str) -> Iterator[None]:
    """Run a watchdog during the body.

    Args:
        folder: a folder that this process has locked.
        uri: of the MLflow server.
        parent: id of the run whose children the driver works on.
    """
    command = [sys.executable, "-m", "retreever.tracking.watchdog", str(folder), uri, parent]
    # A session of its own, since Ctrl-C reaches every process in the terminal's group.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        process.communicate(DONE_MESSAGE)


def end_killed_driver_runs(folder: str, uri: str, parent: str) -> None:
    """Wait until the driver ends; end the runs of a killed one."""
    if sys.stdin.buffer.read() == DONE_MESSAGE:
        return
    from retreever.tracking.tracker import Tracker  # loads mlflow, so only now

    tracker = Tracker(uri)
    try:
        with lock_folder(Path(folder), "sweep", patience=0):
            for _ in range(2):
                tracker.end_orphans(parent)
                tracker.end(parent, "KILLED")
                time.sleep(SETTLE_SECONDS)
            tracker.end_orphans(parent)
    except ConfigError:
        return  # the same command was started again and takes over


if __name__ == "__main__":
    end_killed_driver_runs(*sys.argv[1:])

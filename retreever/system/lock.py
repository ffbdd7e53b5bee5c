"""One driver at a time for a folder: a lock that the system drops with the process that holds it, whatever ends it."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retreever.errors import ConfigError

LOCK = "driver.lock"


@contextmanager
def held(folder: Path, what: str, patience: float = 10.0) -> Iterator[None]:
    """Hold `folder` for this process.

    Args:
        what: named in the error.
        patience: seconds to wait for a holder that is just ending.

    Raises:
        ConfigError: another process holds it; the message has its id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+", encoding="utf-8") as file:
        deadline = time.monotonic() + patience
        while not _taken(file.fileno()):
            if time.monotonic() > deadline:
                file.seek(0)
                raise ConfigError([f"{what}: process {file.read().strip()} is running it ({folder}); wait or stop it"])
            time.sleep(0.1)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

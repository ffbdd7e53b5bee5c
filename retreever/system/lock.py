"""One driver at a time for a folder: the operating system releases the lock when its process ends, however it ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from retreever.errors import ConfigError

LOCK_FILE = "driver.lock"


@contextmanager
def lock_folder(folder: Path, what: str, patience: float = 10.0) -> Iterator[None]:
    """Lock `folder` for this process.

    Args:
        what: named in the error.
        patience: seconds to wait for a holder that is about to end.

    Raises:
        ConfigError: another process holds the lock; the message has its id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / LOCK_FILE
    try:  # never the soft lock, which outlives a killed process
        lock = FileLock(file, timeout=patience, poll_interval=0.1, fallback_to_soft=False).acquire()
    except Timeout:
        holder = file.read_text(encoding="utf-8").strip()
        raise ConfigError([f"{what}: process {holder} is running it ({folder}); wait or stop it"]) from None
    with lock:
        file.write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield

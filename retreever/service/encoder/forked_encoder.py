"""An encoder and a tree in a process of their own, forked from a server that all encoders of a machine share."""

import fcntl
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retreever.errors import RetreeverError
from retreever.service.encoder.fork_server import Task

if TYPE_CHECKING:  # this side is to do without torch
    from retreever.encoding.encoder import Kind

BASE = Path("/tmp")  # the path of a socket has 107 characters, a folder for temporary files may take them all


class LostProcess(RetreeverError):
    """The process that encodes has ended."""


class Forked:
    """An encoder and a tree, called with texts; only one thread may call it at a time.

    Args:
        folder, threads, device: as of `Encoding`.
        server: name of the server to ask; it is started where there is none.

    Raises:
        RetreeverError: the model cannot be had, or no process can be started.
    """

    def __init__(self, folder: Path, threads: int, device: str, server: str):
        task = Task(folder, threads, device, dict(os.environ))
        for left in (1, 0):
            self._peer = _connection(sockets() / f"{server}.sock")
            try:
                self._asked(task)
                return
            except LostProcess:  # a server that was about to end
                if not left:
                    raise

    def __call__(self, texts: Sequence[str], kind: "Kind") -> tuple[np.ndarray, dict[int, str]]:
        """Node probabilities, float32 (texts, nodes), zeros where there is a fault; and the faults by place.

        Raises:
            LostProcess: it has ended, and will not come back.
        """
        nodes, faults = self._asked((list(texts), kind))
        return nodes, faults

    def _asked(self, what: object) -> Any:
        try:
            self._peer.send(what)
            reply = self._peer.recv()
        except (EOFError, OSError) as error:
            raise LostProcess(f"the process that encodes has ended: {error!r}") from None
        if isinstance(reply, Exception):
            raise reply
        return reply


def sockets() -> Path:
    """Where servers' sockets are, for this user alone: what comes through them is unpickled.

    Raises:
        RetreeverError: another user has made it, or may enter.
    """
    folder = BASE / f"retreever-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o77:
        raise RetreeverError(f"{folder}: must be a folder that belongs to this user alone")
    return folder


def _connection(path: Path) -> Connection:
    try:
        return _connected(path)
    except (FileNotFoundError, ConnectionRefusedError):
        pass
    with _alone(path.parent):
        try:
            return _connected(path)  # someone else has started it meanwhile
        except (FileNotFoundError, ConnectionRefusedError):
            _start(path)
        return _connected(path)


def _connected(path: Path) -> Connection:
    peer = socket.socket(socket.AF_UNIX)
    try:
        peer.connect(str(path))
    except OSError:
        peer.close()
        raise
    return Connection(peer.detach())


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While no other process is in this block."""
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _start(path: Path) -> None:
    """Start a server; it belongs to no replica, for it is to outlive them, and stays in the session: the system weighs
    sessions against one another before it looks at priorities.
    """
    command = [sys.executable, "-m", "retreever.service.encoder.fork_server", str(path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, process_group=0, check=False)
    if done.returncode:
        raise RetreeverError(f"{' '.join(command)} did not come up; its log says why")

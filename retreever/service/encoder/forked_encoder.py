"""An encoder in a separate process, forked from a server that all encoders of a machine share."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from retreever.errors import RetreeverError
from retreever.service.encoder.fork_server import EncoderTask

if TYPE_CHECKING:  # this process runs without torch
    from retreever.encoding.tokenized_texts import TextKind

SOCKET_BASE = Path("/tmp")  # short: the path of a socket has at most 107 characters, TMPDIR may have as many


class LostProcessError(RetreeverError):
    """The encoding process has ended."""


class ForkedEncoder:
    """A `TextEncoder` in a separate process; only one thread may call it at a time.

    Args:
        folder, threads, device: as for `TextEncoder`.
        server: name of the fork server; it is started unless it runs.

    Raises:
        RetreeverError: the model does not load, or the server does not start.
    """

    def __init__(self, folder: Path, threads: int, device: str, server: str):
        task = EncoderTask(folder, threads, device, dict(os.environ))
        for last_attempt in (False, True):
            self._peer = _connect_or_start(make_socket_folder() / f"{server}.sock")
            try:
                self._request(task)
                return
            except LostProcessError:  # the server was about to end
                if last_attempt:
                    raise

    def __call__(self, texts: Sequence[str], kind: "TextKind") -> tuple[np.ndarray, dict[int, str]]:
        """Route texts, as `TextEncoder` does.

        Raises:
            LostProcessError: the process has ended; this encoder is of no more use.
        """
        nodes, faults = self._request((list(texts), kind))
        return nodes, faults

    def _request(self, message: object) -> Any:
        try:
            self._peer.send(message)
            reply = self._peer.recv()
        except (EOFError, OSError) as error:
            raise LostProcessError(f"the encoding process has ended: {error!r}") from None
        if isinstance(reply, Exception):
            raise reply
        return reply


def make_socket_folder() -> Path:
    """Make the folder of the servers' sockets, for this user alone: what comes through them is unpickled.

    Raises:
        RetreeverError: the folder belongs to another user, or others may enter it.
    """
    folder = SOCKET_BASE / f"retreever-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o77:
        raise RetreeverError(f"{folder}: must be a folder that belongs to this user alone")
    return folder


def _connect_or_start(path: Path) -> Connection:
    try:
        return _connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        pass
    with FileLock(path.with_suffix(".lock")):
        try:
            return _connect(path)  # another process has started it meanwhile
        except (FileNotFoundError, ConnectionRefusedError):
            _start_server(path)
        return _connect(path)


def _connect(path: Path) -> Connection:
    peer = socket.socket(socket.AF_UNIX)
    try:
        peer.connect(str(path))
    except OSError:
        peer.close()
        raise
    return Connection(peer.detach())


def _start_server(path: Path) -> None:
    """Start a server that outlives the replicas.

    It stays in their session: Linux weighs sessions against one another before it looks at priorities.
    """
    command = [sys.executable, "-m", "retreever.service.encoder.fork_server", str(path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, process_group=0, check=False)
    if done.returncode:
        raise RetreeverError(f"{' '.join(command)} did not come up; its log says why")

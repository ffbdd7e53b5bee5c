"""A process that has torch and transformers in memory, and forks one that encodes for everyone who connects.

    python -m retreever.service.encoder.fork_server SOCKET

To import the two is more than half of what a new encoder takes, all of it on one core; a fork takes milliseconds. The
command returns when the socket answers, and leaves the server running in the background; it ends by itself when the
last of its processes has been gone for a while. A process ends with its connection. It is asked with pickles: only its
user may reach the socket (`forked.py` sees to that).
"""

import gc
import os
import socket
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from retreever.errors import RetreeverError
from retreever.system.garbage_collection import collector_paused

LINGER_S = 30  # without any process; a replica that was killed is replaced in less
LOOK_S = 1  # how often processes that ended are noticed
WAITING = 64  # connections
COMPUTES = 10  # niceness of what encodes: who collects and searches has little to do, and should not wait for it


@dataclass(frozen=True)
class Task:
    """What a process is to do, as `Encoding` takes it.

    Attributes:
        environment: all variables of the one who asks, such as which GPU is its own.
    """

    folder: Path
    threads: int
    device: str
    environment: dict[str, str]


def main() -> None:
    """Start a server in the background; returns when it listens, with status 1 where it does not come up."""
    read, write = os.pipe()
    if os.fork():
        os.close(write)
        sys.exit(0 if os.read(read, 1) else 1)
    os.close(read)
    with collector_paused():
        _import()
    gc.freeze()  # what stays is not looked through again, which in a child would copy all of it
    path = Path(sys.argv[1])
    with listening(path) as listener:
        os.write(write, b"1")
        os.close(write)
        attend(listener)
        path.unlink(missing_ok=True)


def _import() -> None:
    """What encoders have in common; what is particular to one is little, and loaded with it."""
    from transformers import AutoTokenizer, BertModel  # noqa: F401

    import retreever.service.encoder.text_encoder  # noqa: F401


def listening(path: Path) -> socket.socket:
    """A socket that listens at `path`, where there is none or a dead one."""
    listener = socket.socket(socket.AF_UNIX)
    aside = path.with_suffix(".new")
    aside.unlink(missing_ok=True)
    listener.bind(str(aside))
    listener.listen(WAITING)
    listener.settimeout(LOOK_S)
    aside.rename(path)
    return listener


def attend(listener: socket.socket, linger_s: float = LINGER_S) -> None:
    """Fork a process for everyone who connects, until there has been none for so long."""
    children, since = 0, time.monotonic()
    while children or time.monotonic() - since < linger_s:
        try:
            peer, _ = listener.accept()
        except TimeoutError:
            peer = None
        if peer is not None:
            if not os.fork():
                listener.close()
                _child(peer)
            children += 1
            peer.close()
        ended = _ended()
        children -= ended
        if ended or peer is not None:
            since = time.monotonic()


def _ended() -> int:
    """How many children have ended since this was asked."""
    count = 0
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return count
        if not pid:
            return count
        count += 1


def _child(peer: socket.socket) -> None:
    """Encode for one; never returns into the server's loop."""
    peer.setblocking(True)
    try:
        encode_for(Connection(peer.detach()))
    except (EOFError, OSError):  # the replica is gone
        os._exit(0)
    finally:
        os._exit(1)


def encode_for(peer: Connection) -> None:
    """Load what a connection asks for, then answer its texts until it ends.

    Raises:
        EOFError: it has ended.
    """
    from retreever.service.encoder.text_encoder import Encoding

    task: Task = peer.recv()
    os.environ.clear()
    os.environ.update(task.environment)
    try:
        encoding = Encoding(task.folder, task.threads, task.device)
    except Exception as error:
        return peer.send(_telling(error))
    gc.freeze()
    os.nice(COMPUTES)
    peer.send(None)
    while True:
        texts, kind = peer.recv()
        reply: tuple[np.ndarray, dict[int, str]] | RetreeverError
        try:
            reply = encoding(texts, kind)
        except Exception as error:  # of this batch; the next may do
            reply = _telling(error)
        peer.send(reply)


def _telling(error: Exception) -> RetreeverError:
    """An error that survives the way to another process."""
    return error if isinstance(error, RetreeverError) else RetreeverError(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()

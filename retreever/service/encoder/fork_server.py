"""A server that holds torch and transformers in memory, and forks an encoding process for each connection.

    python -m retreever.service.encoder.fork_server SOCKET

Importing the two takes more than half of an encoder's start, on one core; a fork takes milliseconds. The command
returns when the socket answers, and leaves the server running in the background. A process ends with its connection,
and the server ends `LINGER_S` after its last process. Messages are pickles, so only the server's user may reach the
socket: `forked_encoder.py` ensures it.
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
from retreever.system.garbage_collection import pause_garbage_collection

LINGER_S = 30  # seconds; longer than Serve takes to replace a killed replica
REAP_INTERVAL_S = 1  # seconds between looks for processes that have ended
LISTEN_BACKLOG = 64  # connections
ENCODER_NICENESS = 10  # added to an encoding process: batching and searching take little time and should not wait


@dataclass(frozen=True)
class EncoderTask:
    """The arguments of a process's `TextEncoder`.

    Attributes:
        environment: all environment variables of the caller; they say which GPU is its own.
    """

    folder: Path
    threads: int
    device: str
    environment: dict[str, str]


def run_fork_server() -> None:
    """Start a server in the background; exit when it listens, with status 1 if it fails to start."""
    read, write = os.pipe()
    if os.fork():
        os.close(write)
        sys.exit(0 if os.read(read, 1) else 1)
    os.close(read)
    with pause_garbage_collection():
        _import_libraries()
    gc.freeze()  # a collection in a child would touch, and so copy, all of this memory
    path = Path(sys.argv[1])
    with open_listener(path) as listener:
        os.write(write, b"1")
        os.close(write)
        accept_connections(listener)
        path.unlink(missing_ok=True)


def _import_libraries() -> None:
    """Import what all encoders share; the rest is little, and each loads its own."""
    from transformers import AutoTokenizer, BertModel  # noqa: F401

    import retreever.service.encoder.text_encoder  # noqa: F401


def open_listener(path: Path) -> socket.socket:
    """Open a listening socket at `path`; it replaces one that a dead server has left."""
    listener = socket.socket(socket.AF_UNIX)
    aside = path.with_suffix(".new")
    aside.unlink(missing_ok=True)
    listener.bind(str(aside))
    listener.listen(LISTEN_BACKLOG)
    listener.settimeout(REAP_INTERVAL_S)
    aside.rename(path)
    return listener


def accept_connections(listener: socket.socket, linger_s: float = LINGER_S) -> None:
    """Fork a process for each connection, until there has been no process for `linger_s` seconds."""
    children, since = 0, time.monotonic()
    while children or time.monotonic() - since < linger_s:
        try:
            peer, _ = listener.accept()
        except TimeoutError:
            peer = None
        if peer is not None:
            if not os.fork():
                listener.close()
                _run_child(peer)
            children += 1
            peer.close()
        ended = _reap_children()
        children -= ended
        if ended or peer is not None:
            since = time.monotonic()


def _reap_children() -> int:
    """Count the children that have ended since the last call."""
    count = 0
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return count
        if not pid:
            return count
        count += 1


def _run_child(peer: socket.socket) -> None:
    """Encode for one connection; never returns into the server's loop."""
    peer.setblocking(True)
    try:
        encode_for(Connection(peer.detach()))
    except (EOFError, OSError):  # the replica has ended
        os._exit(0)
    finally:
        os._exit(1)


def encode_for(peer: Connection) -> None:
    """Load the model that a connection names, then encode its texts until it ends.

    Raises:
        EOFError: the connection has ended.
    """
    from retreever.service.encoder.text_encoder import TextEncoder

    task: EncoderTask = peer.recv()
    os.environ.clear()
    os.environ.update(task.environment)
    try:
        encoder = TextEncoder(task.folder, task.threads, task.device)
    except Exception as error:
        return peer.send(_make_picklable(error))
    gc.freeze()
    os.nice(ENCODER_NICENESS)
    peer.send(None)
    while True:
        texts, kind = peer.recv()
        reply: tuple[np.ndarray, dict[int, str]] | RetreeverError
        try:
            reply = encoder(texts, kind)
        except Exception as error:  # fails this batch alone
            reply = _make_picklable(error)
        peer.send(reply)


def _make_picklable(error: Exception) -> RetreeverError:
    """Turn an error into one that survives pickling."""
    return error if isinstance(error, RetreeverError) else RetreeverError(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    run_fork_server()

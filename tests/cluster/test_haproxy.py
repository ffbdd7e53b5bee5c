"""HAProxy's settings; the tests of the service show that it serves."""

import asyncio
import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from retreever.cluster.haproxy import HAPROXY_VARIABLE, MAX_OPEN_REQUESTS, configure_haproxy

CONFIG = """frontend prometheus
    bind :{metrics}
frontend http_frontend
    bind 127.0.0.1:8000
listen stats
  bind *:{stats}
"""
PROXY_CONFIG = """defaults
    mode http
    timeout connect 20s
    timeout client 20s
    timeout server 20s
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend http-retreever
backend http-retreever
    server ingress 127.0.0.1:{ingress}
"""


def test_statistics_stay_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.delenv(HAPROXY_VARIABLE, raising=False)
    with configure_haproxy():
        assert os.environ[HAPROXY_VARIABLE] == "1"
        binary = Path(os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"])
        metrics, stats = (os.environ[f"RAY_SERVE_HAPROXY_{name}_PORT"] for name in ("METRICS", "STATS"))
        config = tmp_path / "haproxy.cfg"
        config.write_text(CONFIG.format(metrics=metrics, stats=stats))
        done = subprocess.run([binary, "-v", "-f", config], capture_output=True, text=True, check=True)
        assert "HAProxy version" in done.stdout  # the wrapper called HAProxy
        bound = [line.split()[1] for line in config.read_text().splitlines() if "bind" in line]
        assert bound == [f"127.0.0.1:{metrics}", "127.0.0.1:8000", f"127.0.0.1:{stats}"]
        assert stat.S_IMODE(binary.parent.stat().st_mode) == 0o700
    assert not binary.parent.exists()
    assert not [name for name in os.environ if name.startswith("RAY_SERVE_HAPROXY_")]
    assert HAPROXY_VARIABLE not in os.environ


def test_requests_beyond_the_limit_are_refused(tmp_path, monkeypatch):
    monkeypatch.delenv(HAPROXY_VARIABLE, raising=False)
    refused, probed, answers = asyncio.run(_crowd(tmp_path / "haproxy.cfg"))
    assert refused.startswith(b"HTTP/1.1 429 ")
    assert b"retry-after: 1" in refused.lower()
    assert b'{"detail":"busy' in refused
    assert probed.startswith(b"HTTP/1.1 200 ")
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)


async def _crowd(config: Path) -> tuple[bytes, bytes, list[bytes]]:
    """The answers to one request beyond the limit, to a probe meanwhile, and to the requests within the limit."""
    arrived, release = asyncio.Semaphore(0), asyncio.Event()

    async def ingress(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.release()
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async def ask(path: bytes = b"/v1/search") -> bytes:
        for _ in range(200):
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                break
            except ConnectionRefusedError:  # not up yet
                await asyncio.sleep(0.05)
        writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return answer

    server = await asyncio.start_server(ingress, "127.0.0.1", 0, backlog=2 * MAX_OPEN_REQUESTS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with configure_haproxy():
        config.write_text(PROXY_CONFIG.format(port=port, ingress=server.sockets[0].getsockname()[1]))
        command = os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config)
        process = await asyncio.create_subprocess_exec(*command)
        try:
            let_in = [asyncio.create_task(ask()) for _ in range(MAX_OPEN_REQUESTS)]
            for _ in let_in:
                await asyncio.wait_for(arrived.acquire(), 20)
            refused = await ask()
            probe = asyncio.create_task(ask(b"/healthz"))
            await asyncio.wait_for(arrived.acquire(), 20)
            release.set()
            return refused, await probe, await asyncio.gather(*let_in)
        finally:
            process.terminate()
            await process.wait()
            server.close()


def test_the_user_sets_when_an_ingress_counts_as_dead(monkeypatch):
    monkeypatch.delenv(HAPROXY_VARIABLE, raising=False)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT", "7")
    with configure_haproxy():
        assert os.environ["RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT"] == "7"
        assert os.environ["RAY_SERVE_HAPROXY_HEALTH_CHECK_FALL"] == "12"


def test_the_user_s_settings_are_restored(monkeypatch):
    monkeypatch.delenv(HAPROXY_VARIABLE, raising=False)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_STATS_PORT", "8404")
    before = dict(os.environ)
    with configure_haproxy():
        assert os.environ["RAY_SERVE_HAPROXY_STATS_PORT"] != "8404"
    assert dict(os.environ) == before


@pytest.mark.parametrize("chosen", ["0", "1"])
def test_a_user_s_choice_of_proxy_is_kept(monkeypatch, chosen):
    monkeypatch.setenv(HAPROXY_VARIABLE, chosen)
    before = dict(os.environ)
    with configure_haproxy():
        assert dict(os.environ) == before

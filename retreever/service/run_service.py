"""Runs the service on one machine, or in the Ray cluster that this process has joined."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import httpx
from ray import serve
from ray.serve.schema import LoggingConfig

from retreever.cluster.ray_runtime import list_replica_ports
from retreever.errors import RetreeverError
from retreever.service.app import build_application
from retreever.service.reverse_proxy import find_haproxy, run_reverse_proxy
from retreever.service.settings import ServiceSettings
from retreever.system.ports import check_port, find_free_ports

APPLICATION_NAME = "retreever"
LOGGING = LoggingConfig(encoding="JSON", enable_access_log=False)  # `request_log.py` writes the access log


@contextmanager
def run_service(arguments: ServiceSettings, *, host: str = "127.0.0.1", port: int = 8000) -> Iterator[str]:
    """Serve while the block runs; yield the address once it answers searches.

    In a cluster that `join_cluster(serving=...)` has started, replicas answer HTTP themselves, behind HAProxy. In any
    other cluster, Serve's proxies stand before them.

    Raises:
        RetreeverError: the port cannot be bound, or the desired version does not load; the message says why.
    """
    application = f"{APPLICATION_NAME}-{port:05}"  # no name is the beginning of another: HAProxy looks for it
    replica_ports, program = list_replica_ports(), find_haproxy()
    direct = bool(replica_ports) and program is not None
    if direct:  # else Serve may listen there already
        check_port(host, port)
    own = {"host": "127.0.0.1", "port": find_free_ports(1)[0]} if direct else {"host": host, "port": port}
    serve.start(http_options={**own, "request_timeout_s": 8 * arguments.timeout_s})
    try:
        serve.run(build_application(arguments), name=application, route_prefix="/", logging_config=LOGGING)
        public_host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        url = f"http://[{public_host}]:{port}" if ":" in public_host else f"http://{public_host}:{port}"
        proxied = (
            run_reverse_proxy(program, application, host, port, replica_ports) if direct and program else nullcontext()
        )
        with proxied:
            _wait_until_ready(url, arguments.start_s)
            yield url
    finally:
        if direct:
            serve.shutdown()
        else:  # other applications may run in this cluster
            serve.delete(application)


def _wait_until_ready(url: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    with httpx.Client(base_url=url, timeout=5, trust_env=False) as client:
        while time.monotonic() < end:
            try:
                reply = client.get("/readyz")
            except httpx.TransportError:
                reply = httpx.Response(503)
            if reply.status_code == 200:
                return
            fault = reply.json().get("fault") if "json" in reply.headers.get("content-type", "") else None
            if fault:
                raise RetreeverError(fault)
            time.sleep(0.1)
    raise RetreeverError(f"start_s: no version serves within {seconds:g} s")

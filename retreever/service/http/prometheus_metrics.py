"""What is measured, in Prometheus' words; several replicas are told apart by a label."""

import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TIMES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64)
METHODS = ("GET", "HEAD", "POST", "DELETE")  # others are the caller's invention, and there is no end of them
TENTHS = tuple(n / 10 for n in range(11))


class Metrics:
    """The figures of one process that answers HTTP."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        self.requests = Counter("retreever_requests", "answers", ["path", "method", "status"], registry=own)
        self.seconds = Histogram("retreever_request_seconds", "whole requests", ["path"], buckets=TIMES, registry=own)
        self.stages = Histogram(
            "retreever_stage_seconds",
            "stages of a search: wait, encode, search",
            ["stage", "level", "version"],
            buckets=TIMES,
            registry=own,
        )
        self.batches = Histogram("retreever_batch_texts", "queries searched together", buckets=SIZES, registry=own)
        self.waiting = Gauge("retreever_waiting_texts", "queries that wait for their turn", registry=own)
        self.agreement = Histogram(
            "retreever_canary_agreement",
            "share of the canary's passages that the champion finds too",
            ["champion", "canary"],
            buckets=TENTHS,
            registry=own,
        )

    def text(self) -> str:
        """All figures."""
        return generate_latest(self.registry).decode()


class Measured:
    """ASGI middleware: counts and times every request, by the path of its endpoint."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begun, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.requests.labels(path, method, status).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - begun)


def merged(texts: Mapping[str, str]) -> str:
    """The figures of several processes as one text, each with its `replica`."""
    families: dict[str, Metric] = {}
    for replica, text in texts.items():
        for family in text_string_to_metric_families(text):
            own = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                own.add_sample(sample.name, {**sample.labels, "replica": replica}, sample.value)

    class Given:
        def collect(self) -> list[Metric]:
            return list(families.values())

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Given())
    return generate_latest(registry).decode()

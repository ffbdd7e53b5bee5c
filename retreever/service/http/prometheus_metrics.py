"""The service's metrics for Prometheus; a label tells the replicas apart."""

import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
HTTP_METHODS = ("GET", "HEAD", "POST", "DELETE")  # others become `other`: callers could invent any number of labels
SHARE_BUCKETS = tuple(n / 10 for n in range(11))


class ServiceMetrics:
    """The metrics of one ingress."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        self.requests = Counter("retreever_requests", "answers", ["path", "method", "status"], registry=own)
        self.seconds = Histogram(
            "retreever_request_seconds", "whole requests", ["path"], buckets=LATENCY_BUCKETS, registry=own
        )
        self.stages = Histogram(
            "retreever_stage_seconds",
            "stages of a search: wait, encode, search",
            ["stage", "level", "version"],
            buckets=LATENCY_BUCKETS,
            registry=own,
        )
        self.batches = Histogram(
            "retreever_batch_texts", "queries searched together", buckets=BATCH_BUCKETS, registry=own
        )
        self.waiting = Gauge("retreever_waiting_texts", "queries that wait for their turn", registry=own)
        self.agreement = Histogram(
            "retreever_canary_agreement",
            "share of the canary's passages that the champion finds too",
            ["champion", "canary"],
            buckets=SHARE_BUCKETS,
            registry=own,
        )

    def render_text(self) -> str:
        """Write them in Prometheus' text format."""
        return generate_latest(self.registry).decode()


class MetricsMiddleware:
    """ASGI middleware: counts and times every request by the path of its endpoint."""

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begun, status = time.perf_counter(), 500

        async def record_status(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, record_status)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in HTTP_METHODS else "other"
            self._metrics.requests.labels(path, method, status).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - begun)


def merge_metrics(texts: Mapping[str, str]) -> str:
    """Join the metrics of several processes into one text; the label `replica` tells them apart."""
    families: dict[str, Metric] = {}
    for replica, text in texts.items():
        for family in text_string_to_metric_families(text):
            own = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                own.add_sample(sample.name, {**sample.labels, "replica": replica}, sample.value)

    class MergedCollector:
        def collect(self) -> list[Metric]:
            return list(families.values())

    registry = CollectorRegistry(auto_describe=False)
    registry.register(MergedCollector())
    return generate_latest(registry).decode()

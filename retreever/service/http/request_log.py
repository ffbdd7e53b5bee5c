"""Counts, times and logs every request: one JSON line each, in Ray Serve's log of the replica.

A line names the request, its trace and what answered it. It never holds a text of the caller.
"""

import logging
import re
import time
import uuid
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retreever.service.contract import SearchAnswer
from retreever.service.http.service_metrics import ServiceMetrics

ANSWER_KEY = "answer"  # in a request's state: the `SearchAnswer` that it got
HTTP_METHODS = ("GET", "HEAD", "POST", "DELETE")  # others become `other`: callers could invent any number of labels
MAX_ID_CHARACTERS = 128
QUIET_PATHS = ("/healthz", "/readyz", "/metrics")  # probes are counted, not logged
ACCESS_LOG = logging.getLogger("ray.serve.retreever")


class RequestLog:
    """ASGI middleware: counts, times and logs every request by the path of its endpoint."""

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begun, status = time.perf_counter(), 500
        headers = dict(scope["headers"])
        request_id = _read_header(headers, b"x-request-id") or uuid.uuid4().hex  # Ray Serve gives every request one

        async def record_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, record_status)
        finally:
            seconds = time.perf_counter() - begun
            path = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in HTTP_METHODS else "other"
            self._metrics.observe_request(path, method, status, seconds)
            if path not in QUIET_PATHS:
                trace_id = read_trace_id(_read_header(headers, b"traceparent"))
                fields: dict[str, Any] = {"request_id": request_id, "path": path, "method": method, "status": status}
                fields |= {"trace_id": trace_id} if trace_id else {}
                fields |= {"ms": round(seconds * 1000, 2)} | _describe_answer(scope)
                ACCESS_LOG.info("%s %s %d", method, path, status, extra=fields)


def read_trace_id(traceparent: str) -> str:
    """Read the trace id of a W3C `traceparent` header; empty where it has none.

    >>> read_trace_id("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    '4bf92f3577b34da6a3ce929d0e0e4736'
    """
    found = re.fullmatch(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}", traceparent)
    return found[1] if found else ""


def _read_header(headers: dict[bytes, bytes], name: bytes) -> str:
    """Read a header of the caller; empty where it is missing, too long, or not of plain characters."""
    text = headers.get(name, b"").decode("latin-1")
    return text if len(text) <= MAX_ID_CHARACTERS and text.isascii() and text.isprintable() else ""


def _describe_answer(scope: Scope) -> dict[str, Any]:
    answer: SearchAnswer | None = scope.get("state", {}).get(ANSWER_KEY)
    if answer is None:
        return {}
    stages = {f"{stage}_ms": round(seconds * 1000, 2) for stage, seconds in answer.stages.items()}
    return {"version": answer.version, "level": answer.level, **stages}

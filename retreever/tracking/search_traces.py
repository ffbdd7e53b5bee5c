"""Sends a share of the searches of a service to MLflow as traces, so that a team sees queries where it sees runs.

A trace holds the query, the ids of the passages and the stages of the search. Sending takes a thread of its own; while
it lags behind, further searches are left out.
"""

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retreever.system.workspace import Workspace
from retreever.tracking.tracker import Tracker

MAX_PENDING_TRACES = 100


@dataclass(frozen=True)
class SearchTrace:
    """A search as MLflow keeps it.

    Attributes:
        stages: seconds by stage, in their order; they follow one another.
        trace_id: of the caller, as OpenTelemetry names traces; empty where it sent none.
        ended_at: seconds since 1970.
    """

    queries: Sequence[str]
    ids: Sequence[str]
    version: str
    level: int
    stages: Mapping[str, float]
    trace_id: str
    ended_at: float


class SearchTracer:
    """Sends traces to the experiment of the workspace's runs."""

    def __init__(self, workspace: Workspace):
        self._workspace = workspace
        self._pending: queue.Queue[SearchTrace] = queue.Queue(MAX_PENDING_TRACES)
        threading.Thread(target=self._send_all, name="search-traces", daemon=True).start()

    def record(self, trace: SearchTrace) -> None:
        """Send a trace soon; drop it where too many wait."""
        try:
            self._pending.put_nowait(trace)
        except queue.Full:
            return

    def wait_until_sent(self, seconds: float) -> None:
        """Wait until no trace is left to be sent, for so many seconds at most."""
        end = time.monotonic() + seconds
        while self._pending.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.05)

    def _send_all(self) -> None:
        import mlflow

        tracker = Tracker.of(self._workspace)
        mlflow.set_tracking_uri(tracker.uri)
        experiment = tracker.get_experiment(self._workspace)
        while True:
            trace = self._pending.get()
            try:
                _send_trace(mlflow, experiment, trace)
            finally:
                self._pending.task_done()


def _send_trace(mlflow: Any, experiment: str, trace: SearchTrace) -> None:
    started_at = trace.ended_at - sum(trace.stages.values())
    tags = {"version": trace.version, "level": str(trace.level)}
    root = mlflow.start_span_no_context(
        "search",
        span_type="RETRIEVER",
        inputs={"queries": list(trace.queries)},
        tags=tags | ({"otel_trace_id": trace.trace_id} if trace.trace_id else {}),
        experiment_id=experiment,
        start_time_ns=int(started_at * 1e9),
    )
    for stage, seconds in trace.stages.items():
        span = mlflow.start_span_no_context(stage, parent_span=root, start_time_ns=int(started_at * 1e9))
        started_at += seconds
        span.end(end_time_ns=int(started_at * 1e9))
    root.end(outputs={"ids": list(trace.ids)}, end_time_ns=int(trace.ended_at * 1e9))

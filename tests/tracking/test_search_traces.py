"""Searches of a service as traces in MLflow."""

import time

import mlflow
import pytest

from retreever.system.workspace import Workspace
from retreever.tracking.search_traces import SearchTrace, SearchTracer
from retreever.tracking.tracker import Tracker


@pytest.fixture
def tracking(tmp_path):
    place, before = Workspace.at(tmp_path), mlflow.get_tracking_uri()
    yield place, Tracker.of(place)
    mlflow.set_tracking_uri(before)


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")
def test_a_search_becomes_a_trace_with_its_stages(tracking):
    place, tracker = tracking
    experiment = tracker.get_experiment(place)
    tracer, now = SearchTracer(place), time.time()
    stages = {"wait": 0.001, "encode": 0.004, "search": 0.002}
    tracer.record(SearchTrace(["read a csv"], ["p1", "p2"], "models:/retreever/3", 10, stages, "4bf9", now))
    tracer.wait_until_sent(60)
    mlflow.flush_trace_async_logging()
    (trace,) = mlflow.search_traces(locations=[experiment], return_type="list")
    assert trace.info.tags["version"] == "models:/retreever/3" and trace.info.tags["otel_trace_id"] == "4bf9"
    root, *children = sorted(trace.data.spans, key=lambda span: (span.parent_id is not None, span.start_time_ns))
    assert root.inputs == {"queries": ["read a csv"]} and root.outputs == {"ids": ["p1", "p2"]}
    took = {span.name: (span.end_time_ns - span.start_time_ns) / 1e9 for span in children}
    assert list(took) == list(stages) and took == pytest.approx(stages, abs=1e-5)

"""Runs in MLflow: nested, batched, found again, ended."""

import math
from contextlib import nullcontext

import pytest

from retreever.errors import TrackingError
from retreever.system.files import read_json, write_json
from retreever.system.workspace import Workspace
from retreever.tracking.tracker import Tracker


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    workspace = Workspace.at(tmp_path_factory.mktemp("workspace"))
    tracker = Tracker.of(workspace)
    return tracker, tracker.get_experiment(workspace)


def test_a_child_is_nested_with_params_and_tags(tracked):
    tracker, experiment = tracked
    parent = tracker.start(experiment, "sweep")
    child = tracker.start(experiment, "trial", parent=parent, params={"tree.depth": 3, "loss.negatives": None})
    (found,) = tracker.list_children(parent)
    assert found.info.run_id == child
    assert found.data.params == {"tree.depth": "3", "loss.negatives": "null"}


def test_more_params_than_one_batch_takes(tracked):
    tracker, experiment = tracked
    run = tracker.start(experiment, "many", params={f"p{i}": i for i in range(230)})
    assert len(tracker.get_run(run).data.params) == 230


def test_metrics_are_kept_per_step_and_only_finite_ones(tracked):
    tracker, experiment = tracked
    run = tracker.start(experiment, "metrics")
    for step in range(3):
        tracker.log(run, {"ndcg_at_10/level_04": step / 10, "broken": math.nan}, step)
    history = tracker.client.get_metric_history(run, "ndcg_at_10/level_04")
    assert [(m.step, m.value) for m in history] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    assert "broken" not in tracker.get_run(run).data.metrics


def test_orphans_are_ended_and_other_runs_stay(tracked):
    tracker, experiment = tracked
    parent = tracker.start(experiment, "sweep")
    done, orphan, dying, late, dead = (tracker.start(experiment, name, parent=parent) for name in "abcde")
    ends = {done: ("finished", "FINISHED"), dying: ("running", "KILLED"), late: ("running", "FINISHED")}
    for run, (status, end) in (ends | {dead: ("failed", "KILLED")}).items():
        tracker.tag(run, {"status": status})
        tracker.end(run, end)
    assert tracker.end_orphans(parent) == 3
    ended = {run.info.run_id: (run.info.status, run.data.tags["status"]) for run in tracker.list_children(parent)}
    assert ended == {
        done: ("FINISHED", "finished"),
        orphan: ("KILLED", "interrupted"),
        dying: ("KILLED", "interrupted"),  # its trial ended it
        late: ("KILLED", "interrupted"),  # finished, but no driver recorded that
        dead: ("KILLED", "failed"),
    }


def test_a_run_is_found_by_its_record_or_started(tracked, tmp_path):
    tracker, experiment = tracked
    record = tmp_path / "runs" / "run.json"
    open_run = lambda: tracker.find_or_start(record, lambda: tracker.start(experiment, "it"), varied={"a": 1})  # noqa: E731
    first = open_run()
    assert read_json(record) == {"run_id": first, "varied": {"a": 1}} and open_run() == first
    write_json(record, {"run_id": "of another server"})
    assert open_run() != first and read_json(record)["varied"] == {"a": 1}


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_a_run_ends_as_its_body_ends(tracked, error, status):
    tracker, experiment = tracked
    run = tracker.start(experiment, "body")
    tracker.end(run)
    with pytest.raises(error) if error else nullcontext(), tracker.keep_running(run):
        assert tracker.get_run(run).info.status == "RUNNING"
        if error:
            raise error("too deep")
    found = tracker.get_run(run)
    assert found.info.status == status
    assert found.data.tags.get("error") == ("ValueError: too deep" if status == "FAILED" else None)
    assert ("test_tracker.py" in found.data.tags.get("traceback", "")) == (status == "FAILED")


def test_a_closed_generator_ends_its_run_as_killed(tracked):
    tracker, experiment = tracked
    run = tracker.start(experiment, "generator")

    def work():
        with tracker.keep_running(run):
            yield from range(3)

    steps = work()
    next(steps)
    steps.close()
    assert tracker.get_run(run).info.status == "KILLED"


def test_an_unknown_run_is_named(tracked):
    tracker, _ = tracked
    assert not tracker.exists("nope")
    with pytest.raises(TrackingError, match="run nope: not found"):
        tracker.get_run("nope")


def test_artifacts_lie_in_the_workspace(tracked, tmp_path):
    tracker, experiment = tracked
    run = tracker.start(experiment, "artifacts")
    (tmp_path / "plot.txt").write_text("x")
    tracker.log_artifact(run, tmp_path / "plot.txt", "plots")
    assert [file.path for file in tracker.client.list_artifacts(run, "plots")] == ["plots/plot.txt"]
    if tracker.uri.startswith("sqlite:"):
        assert "workspace" in tracker.get_run(run).info.artifact_uri

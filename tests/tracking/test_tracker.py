"""Runs in MLflow: nested, batched, ended."""

import math

import pytest

from retreever.errors import TrackingError
from retreever.system.workspace import Workspace
from retreever.tracking.tracker import Tracker


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    workspace = Workspace.at(tmp_path_factory.mktemp("workspace"))
    tracker = Tracker.of(workspace)
    return tracker, tracker.experiment(workspace)


def test_a_child_is_nested_with_params_and_tags(tracked):
    tracker, experiment = tracked
    parent = tracker.start(experiment, "sweep")
    child = tracker.start(experiment, "trial", parent=parent, params={"tree.depth": 3, "loss.negatives": None})
    (found,) = tracker.children(parent)
    assert found.info.run_id == child
    assert found.data.params == {"tree.depth": "3", "loss.negatives": "null"}


def test_more_params_than_one_batch_takes(tracked):
    tracker, experiment = tracked
    run = tracker.start(experiment, "many", params={f"p{i}": i for i in range(230)})
    assert len(tracker.run(run).data.params) == 230


def test_metrics_are_kept_per_step_and_only_finite_ones(tracked):
    tracker, experiment = tracked
    run = tracker.start(experiment, "metrics")
    for step in range(3):
        tracker.log(run, {"ndcg_at_10/level_04": step / 10, "broken": math.nan}, step)
    history = tracker.client.get_metric_history(run, "ndcg_at_10/level_04")
    assert [(m.step, m.value) for m in history] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    assert "broken" not in tracker.run(run).data.metrics


def test_orphans_are_ended_and_others_left(tracked):
    tracker, experiment = tracked
    parent = tracker.start(experiment, "sweep")
    done, orphan, dying, late, dead = (tracker.start(experiment, name, parent=parent) for name in "abcde")
    ends = {done: ("finished", "FINISHED"), dying: ("running", "KILLED"), late: ("running", "FINISHED")}
    for run, (status, end) in (ends | {dead: ("failed", "KILLED")}).items():
        tracker.tag(run, {"status": status})
        tracker.end(run, end)
    assert tracker.end_orphans(parent) == 3
    ended = {run.info.run_id: (run.info.status, run.data.tags["status"]) for run in tracker.children(parent)}
    assert ended == {
        done: ("FINISHED", "finished"),
        orphan: ("KILLED", "interrupted"),
        dying: ("KILLED", "interrupted"),  # its trial had ended it by itself
        late: ("KILLED", "interrupted"),  # had come to its end, which no driver was there to note
        dead: ("KILLED", "failed"),
    }


def test_an_unknown_run_is_named(tracked):
    tracker, _ = tracked
    assert not tracker.exists("nope")
    with pytest.raises(TrackingError, match="run nope: not found"):
        tracker.run("nope")


def test_artifacts_lie_in_the_workspace(tracked, tmp_path):
    tracker, experiment = tracked
    run = tracker.start(experiment, "artifacts")
    (tmp_path / "plot.txt").write_text("x")
    tracker.artifact(run, tmp_path / "plot.txt", "plots")
    assert [file.path for file in tracker.client.list_artifacts(run, "plots")] == ["plots/plot.txt"]
    if tracker.uri.startswith("sqlite:"):
        assert "workspace" in tracker.run(run).info.artifact_uri

"""A driver killed in the middle of a grid, eight trials that write to one store, a trial killed for memory.

Nothing is lost and nothing runs twice.
"""

import json
import os
import signal
import time
from collections import Counter

import numpy as np
import psutil
import pytest

from retreever.cluster.ray_runtime import join_cluster
from retreever.errors import ConfigError
from retreever.sweeps import search_space as spaces
from retreever.sweeps.run_sweep import run_sweep
from retreever.sweeps.space_grammar import SearchSpace
from retreever.system.files import read_json
from retreever.tracking.tracker import Tracker
from retreever.training import checkpoint
from tests.support import tiny
from tests.support.sweeps import start, wait_until

GIB = 2**30
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def written_space(workspace, **train):
    """Twenty-four trials: learning rates by seeds."""
    settings = tiny.tiny_config(workspace.root / "bert").model_dump(mode="json")
    settings["train"] |= {"lr": {"grid": [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]}, **train}
    file = workspace.root / "space.yaml"
    file.write_text(json.dumps({"name": "killed", "scheduler": "none", "seeds": 4, "config": settings}))
    return file


def test_a_grid_whose_driver_is_killed_is_resumed(workspace):
    file = written_space(workspace, steps=400, eval_every=50)
    process = start(file, workspace)
    (pattern,) = ["killed-*/trials/*/"]
    ended = lambda: sorted(workspace.sweeps.glob(pattern + "trial.json"))  # noqa: E731
    begun = lambda: {path.parent for path in workspace.sweeps.glob(pattern + "checkpoint")}  # noqa: E731
    halfway = lambda: begun() - {path.parent for path in ended()}  # noqa: E731
    wait_until(lambda: len(ended()) >= 6 and halfway(), 400, process)
    with pytest.raises(ConfigError, match=f"process {process.pid} is running it"):
        run_sweep(spaces.load_space(file), workspace)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1)
    before, interrupted = {path: path.stat().st_mtime_ns for path in ended()}, halfway()
    (folder,) = workspace.sweeps.glob("killed-*")
    tracker, parent = Tracker.of(workspace), read_json(folder / "sweep.json")["parent"]
    running = lambda: [r for r in tracker.list_children(parent) if r.info.status == "RUNNING"]  # noqa: E731
    wait_until(lambda: not running() and tracker.get_run(parent).info.status == "KILLED", 60)

    ends = Counter(run.data.tags["status"] for run in tracker.list_children(parent))
    assert ends == {"finished": len(before), "interrupted": ends["interrupted"]} and ends["interrupted"]

    again = start(file, workspace)
    out, err = again.communicate(timeout=600)
    assert again.returncode == 0, err
    assert [trial["status"] for trial in json.loads(out)["trials"]] == ["finished"] * 24
    assert {path: path.stat().st_mtime_ns for path in before} == before  # ended trials did not run again
    children = tracker.list_children(parent)
    assert len(children) == 24 and {run.info.status for run in children} == {"FINISHED"}
    assert {run.data.tags["status"] for run in children} == {"finished"}
    assert len({(run.data.params["train.lr"], run.data.params["train.seed"]) for run in children}) == 24
    assert read_json(folder / "sweep.json")["parent"] == parent and tracker.get_run(parent).info.status == "FINISHED"
    resumed = [run for run in children if int(run.data.tags.get("resumed_at_step", 0))]
    assert interrupted and {read_json(path / "run.json")["run_id"] for path in interrupted} == {
        run.info.run_id for run in resumed
    }
    for run in children:
        steps = [point.step for point in tracker.client.get_metric_history(run.info.run_id, "ndcg_at_10")]
        assert steps == [50, 100, 150, 200, 250, 300, 350, 400]


def test_eight_trials_at_once_lose_no_figure_in_one_sqlite_file(workspace):
    settings = tiny.tiny_config(workspace.root / "bert", train__steps=300, train__eval_every=10)
    space = SearchSpace(name="crowd", scheduler="none", seeds=8, config=settings.model_dump(mode="json"))
    together = Counter()

    def watch(event):
        together[event.status == "running" and event.ended == 0] += 1

    with join_cluster(workspace, cpus=8):
        result = run_sweep(space, workspace, watch=watch)
    assert [o.status for o in result.outcomes] == ["finished"] * 8, [o.error for o in result.outcomes]
    tracker = Tracker.of(workspace)
    for outcome in result.outcomes:
        state = checkpoint.read_training_state(result.folder / "trials" / outcome.key / "checkpoint")
        assert len(state.history) == 30
        for name in state.history[0]:
            kept = tracker.client.get_metric_history(outcome.run_id, name)
            assert [point.value for point in kept] == [figures[name] for figures in state.history], name
    assert together[True] > 60  # they ran at the same time


def test_a_trial_that_ray_kills_for_memory_is_named_and_the_next_one_runs(workspace, monkeypatch):
    """Ray's memory monitor kills the trial on a node whose memory another process fills."""
    settings = tiny.tiny_config(workspace.root / "bert").model_dump(mode="json")
    settings["train"]["steps"] = {"grid": [20_000, 30]}
    space = SearchSpace(name="memory", scheduler="none", config=settings)
    memory, ballast = psutil.virtual_memory(), []
    monkeypatch.setenv("RAY_memory_usage_threshold", str(1 - (memory.available - 2 * GIB) / memory.total))

    def watch(event):
        if event.status == "running" and "20000" in event.trial and not ballast:
            ballast.append(np.ones(3 * GIB, np.uint8))
        if event.status == "failed":
            ballast.clear()

    with join_cluster(workspace, cpus=1):
        result = run_sweep(space, workspace, watch=watch)
    found = {o.varied["train.steps"]: o for o in result.outcomes}
    assert found[30].status == "finished", found[30].error
    assert found[20_000].status == "failed" and "memory" in str(found[20_000].error)
    assert Tracker.of(workspace).get_run(found[20_000].run_id).info.status == "FAILED"

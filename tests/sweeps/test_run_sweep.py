"""A sweep by Ray Tune on real (tiny) text: early stopping, nesting, failures, resume."""

import json
import os
import signal
import time

import psutil
import pytest
import ray

from retreever.cluster.launch_training import train_run
from retreever.cluster.ray_runtime import join_cluster
from retreever.data import beir
from retreever.errors import ConfigError, TrainingError
from retreever.sweeps.run_sweep import run_sweep
from retreever.sweeps.space_grammar import AshaConfig, Budget, SearchSpace
from retreever.system.files import read_json
from retreever.tracking.tracker import Tracker
from tests.support import tiny
from tests.support.sweeps import start, wait_until

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def ray_cluster(workspace):
    with join_cluster(workspace, cpus=2, dashboard=True):  # as `run_sweep` does for trials of several workers
        yield


def grid(workspace, name, **grids):
    settings = tiny.tiny_config(workspace.root / "bert").model_dump(mode="json")
    for dotted, values in grids.items():
        section, key = dotted.split("__")
        settings[section][key] = {"grid": values}
    return SearchSpace(name=name, config=settings, asha=AshaConfig(grace=1, reduction=2))


def test_a_sweep_stops_weak_trials_nests_all_runs_and_does_not_run_twice(workspace, ray_cluster):
    space = grid(workspace, "both", tree__depth=[4, 2], tree__split=["linear", "mlp"])
    events = []
    result = run_sweep(space, workspace, watch=events.append)
    assert {o.status for o in result.outcomes} == {"finished", "stopped"}
    assert result.best.best["ndcg_at_10"] == max(o.best["ndcg_at_10"] for o in result.outcomes)
    tracker = Tracker.of(workspace)
    children = {run.info.run_id: run for run in tracker.list_children(result.parent)}
    assert set(children) == {o.run_id for o in result.outcomes} and len(children) == 4
    ends = {"finished": "FINISHED", "stopped": "KILLED"}
    assert all(children[o.run_id].info.status == ends[o.status] for o in result.outcomes)
    history = tracker.client.get_metric_history(result.best.run_id, "ndcg_at_10/level_04")
    assert [point.step for point in history] == [10, 20, 30]
    assert {file.path for file in tracker.client.list_artifacts(result.parent)} >= {"trials.csv", "trials.png"}
    assert tracker.get_run(result.parent).info.status == "FINISHED"

    events.clear()
    again = run_sweep(space, workspace, watch=events.append)
    assert not events and [o.key for o in again.outcomes] == [o.key for o in result.outcomes]
    assert len(tracker.list_children(again.parent)) == 4


def test_failed_trials_are_named_with_their_reason_and_the_others_run(workspace, ray_cluster):
    """One trial finishes, one gets a loss that is NaN, one raises, and one loses its process."""
    settings = tiny.tiny_config(workspace.root / "bert").model_dump(mode="json")
    settings["train"] |= {
        "steps": {"grid": [30, 31, 32, 9000]},
        "lr": {"grid": [1e30], "when": {"train.steps": 31}},
    }
    settings["data"]["max_pairs"] = {"grid": [1], "when": {"train.steps": 32}}
    space = SearchSpace(name="broken", scheduler="none", config={"train": settings.pop("train"), **settings})
    result = run_sweep(space, workspace, watch=kill_the_process_of("steps=9000"))
    found = {o.varied["train.steps"]: o for o in result.outcomes}
    assert {steps: o.status for steps, o in found.items()} == {
        30: "finished", 31: "failed", 32: "failed", 9000: "failed"
    }  # fmt: skip
    assert "loss is nan" in str(found[31].error)
    assert "train.batch_size: 1 workers need a batch of 2 pairs" in str(found[32].error)
    assert "killed" in str(found[9000].error) and "memory" in str(found[9000].error)
    tracker = Tracker.of(workspace)
    for outcome in found.values():
        run = tracker.get_run(outcome.run_id)
        assert run.info.status == ("FINISHED" if outcome.status == "finished" else "FAILED")
        assert (outcome.error or "") == run.data.tags.get("error", "") and run.data.tags["status"] == outcome.status
    traceback = tracker.get_run(found[31].run_id).data.tags["traceback"]
    assert "training_loop.py" in traceback and "\x1b" not in traceback
    table = (result.folder / "trials.csv").read_text()
    assert all(str(found[steps].error) in table.replace('""', '"') for steps in (31, 9000))


def kill_the_process_of(label):
    """A callback that kills every trial's process, as the kernel does when memory is short, once a trial runs."""

    def watch(event):
        if label in event.trial and event.status == "running":
            for process in psutil.process_iter():
                mine = any(parent.pid == os.getpid() for parent in process.parents())
                if mine and "TreeTrial" in " ".join(process.cmdline()):
                    process.kill()

    return watch


def test_a_grid_of_several_objectives_ends_with_a_front_of_what_is_learned_and_what_is_kept(workspace, ray_cluster):
    beir.write_beir(tiny.tiny_dataset(seed=7), workspace.dataset_folder("other"))
    space = grid(workspace, "kept", tree__depth=[3, 4]).model_copy(
        update={"scheduler": "none", "objectives": ("ndcg_at_10", "guard_of_frozen", "routing_agreement/level_03")}
    )
    space.config["train"]["guard"] = ["other"]
    result = run_sweep(space, workspace)
    assert [o.status for o in result.outcomes] == ["finished", "finished"], result.outcomes
    assert {o.key for o in result.pareto_front} <= {o.key for o in result.outcomes} and result.pareto_front
    assert all(o.best["guard_of_frozen"] == o.best["guard/other/of_frozen"] for o in result.outcomes)
    header = (result.folder / "trials.csv").read_text().splitlines()[0].split(",")
    assert {"guard_of_frozen", "guard/other/ndcg_at_10", "routing_agreement/level_03"} <= set(header)
    assert (result.folder / "pareto.png").is_file()
    history = Tracker.of(workspace).client.get_metric_history(result.best.run_id, "guard_of_frozen")
    assert [point.step for point in history] == [10, 20, 30]


@pytest.mark.slow
def test_trials_of_two_workers_are_train_runs_that_the_scheduler_can_stop(workspace, ray_cluster):
    space = grid(workspace, "wide", tree__depth=[4, 1]).model_copy(update={"workers": 2})
    result = run_sweep(space, workspace)
    assert [o.status for o in result.outcomes] == ["finished", "stopped"], result.outcomes
    assert result.configs[result.best.key].tree.depth == 4
    tracker = Tracker.of(workspace)
    children = {run.info.run_id: run.info.status for run in tracker.list_children(result.parent)}
    assert children == {o.run_id: {"finished": "FINISHED", "stopped": "KILLED"}[o.status] for o in result.outcomes}
    for outcome in result.outcomes:
        history = tracker.client.get_metric_history(outcome.run_id, "ndcg_at_10")
        assert [point.step for point in history] == [10, 20, 30][: len(history)]
    assert (result.folder / "trials" / result.best.key / "model" / "model.json").is_file()
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU") != 2:  # a stopped trial must release its CPUs
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.2)


@pytest.mark.slow
def test_the_median_rule_stops_a_trial_that_learns_nothing(workspace, ray_cluster):
    space = grid(workspace, "median", train__lr=[0.05, 0.04, 0.03, 0.02, 1e-7])
    space = space.model_copy(update={"scheduler": "median"})
    found = {o.varied["train.lr"]: o.status for o in run_sweep(space, workspace).outcomes}
    assert found.pop(1e-7) == "stopped" and "finished" in found.values()


@pytest.mark.slow
def test_a_spent_budget_of_minutes_starts_no_trial_and_the_same_command_goes_on(workspace, ray_cluster):
    space = grid(workspace, "budget", train__seed=[0, 1, 2, 3, 4, 5], train__steps=[300])
    space = space.model_copy(update={"scheduler": "none", "budget": Budget(minutes=0.02)})
    tracker, calls = Tracker.of(workspace), []
    while not calls or (calls[-1].is_budget_spent and len(calls) < 12):
        calls.append(run_sweep(space, workspace))
        assert {o.status for o in calls[-1].outcomes} <= {"finished"}
        assert tracker.get_run(calls[-1].parent).info.status == "FINISHED"
    assert calls[0].is_budget_spent and len(calls[0].outcomes) < 6
    assert not calls[-1].is_budget_spent and [o.status for o in calls[-1].outcomes] == ["finished"] * 6
    assert len(tracker.list_children(calls[-1].parent)) == 6 and len({call.parent for call in calls}) == 1


def test_a_sweep_that_can_never_start_is_an_error(workspace, ray_cluster):
    space = grid(workspace, "huge", tree__depth=[2]).model_copy(update={"workers": 64})
    with pytest.raises(ConfigError, match="a trial needs 64 CPUs"):
        run_sweep(space, workspace)


def test_two_workers_train_the_same_tree_as_one(workspace, ray_cluster):
    config = tiny.tiny_config(workspace.root / "bert", train__input_dropout=0.0)
    one, _ = train_run(config, workspace, "one", workers=1)
    two, run_id = train_run(config, workspace, "two", workers=2)
    losses = [[figures["loss"] for figures in result.history] for result in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert two.best["ndcg_at_10"] == pytest.approx(one.best["ndcg_at_10"], abs=1e-3)
    assert Tracker.of(workspace).get_run(run_id).info.status == "FINISHED"


def test_a_worker_s_own_error_is_what_the_caller_sees(workspace, ray_cluster):
    config = tiny.tiny_config(workspace.root / "bert", train__lr=1e30)
    with pytest.raises(TrainingError, match="loss is nan"):
        train_run(config, workspace, "fails", workers=2)


def test_a_run_name_is_not_given_to_another_configuration(workspace):
    train_run(tiny.tiny_config(workspace.root / "bert", train__steps=10), workspace, "taken")
    with pytest.raises(ConfigError, match="run taken: is taken by another configuration"):
        train_run(tiny.tiny_config(workspace.root / "bert", train__steps=20), workspace, "taken")


def test_ctrl_c_keeps_finished_trials_and_leaves_nothing_running(workspace, tmp_path):
    settings = tiny.tiny_config(workspace.root / "bert", train__steps=4000, train__eval_every=400)
    plain = settings.model_dump(mode="json")
    plain["train"]["steps"] = {"grid": [20, 4000, 4001, 4002]}
    plain["train"]["eval_every"] = 10
    file = tmp_path / "space.yaml"
    file.write_text(json.dumps({"name": "interrupted", "scheduler": "none", "config": plain}))
    process = start(file, workspace)
    try:
        folder = wait_until(lambda: one_ended_one_begun(workspace), 240, process)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    parent = read_json(folder / "sweep.json")["parent"]
    children = Tracker.of(workspace).list_children(parent)
    assert len(children) in (2, 3)  # two at a time, one of them finished; trials that never began have no run
    assert sorted(run.info.status for run in children) == ["FINISHED", "KILLED", "KILLED"][: len(children)]
    assert Tracker.of(workspace).get_run(parent).info.status == "KILLED"


def one_ended_one_begun(workspace):
    """The sweep's folder, once one of its trials has ended and another has begun."""
    for folder in workspace.sweeps.glob("interrupted-*"):
        if list(folder.glob("trials/*/trial.json")) and len(list(folder.glob("trials/*/checkpoint"))) > 1:
            return folder
    return None

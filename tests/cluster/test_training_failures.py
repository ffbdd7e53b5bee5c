"""Workers and nodes that die during a training: it resumes from the last checkpoint and gives the same tree."""

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from retreever.cluster.launch_training import train_run
from retreever.cluster.ray_runtime import join_cluster
from retreever.cluster.training_failures import explain_failure
from retreever.errors import ConfigError, TrainingError
from retreever.training import checkpoint
from tests.support import tiny

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def config(workspace, **settings):
    return tiny.tiny_config(workspace.root / "bert", **{"train__eval_queries": 20, **settings})


def workers():
    """The processes of Ray Train's workers below this one."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += [process] if "RayTrainWorker" in " ".join(process.cmdline()) else []
    return found


class Killer(threading.Thread):
    """Kills one randomly drawn worker at a random time after each of the first checkpoints."""

    def __init__(self, folder: Path, times: int):
        super().__init__(daemon=True)
        self.folder, self.times = folder, times
        self.killed: list[int] = []

    def run(self):
        draw = random.Random(0)
        for _ in range(self.times):
            while checkpoint.find_latest_step(self.folder) <= (self.killed[-1] if self.killed else 0):
                time.sleep(0.05)
            time.sleep(draw.random())
            victims = workers()
            while len(victims) < 2:
                time.sleep(0.05)
                victims = workers()
            self.killed.append(checkpoint.find_latest_step(self.folder))
            os.kill(draw.choice(victims).pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_worker_killed_five_times_changes_nothing(workspace):
    settings = config(workspace, train__steps=1600, train__eval_every=200)
    with join_cluster(workspace, cpus=2):
        whole, _ = train_run(settings, workspace, "whole", workers=2)
        killer = Killer(workspace.runs / "hurt" / "checkpoint", times=5)
        killer.start()
        hurt, _ = train_run(settings, workspace, "hurt", workers=2)
    assert len(killer.killed) == 5
    assert [f["step"] for f in hurt.history] == [f["step"] for f in whole.history]
    ours, theirs = ([f["ndcg_at_10"] for f in result.history] for result in (hurt, whole))
    assert ours == pytest.approx(theirs, abs=1e-6)


RESIZE_OFTEN = {  # Ray calls the hook in all of its processes
    "worker_process_setup_hook": "tests.support.elastic.resize_often",
    "env_vars": {"PYTHONPATH": str(Path(__file__).parents[2])},
}


@pytest.mark.slow
def test_an_elastic_run_survives_the_loss_of_a_node_and_uses_a_new_one(workspace, monkeypatch):
    with join_cluster(workspace, cpus=1):
        pass  # Ray chooses once per process how it authenticates: now by token, also for the nodes below
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "60")
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        lost = nodes.add_node(num_cpus=1)
        nodes.add_node(num_cpus=1)
        ray.init(address=nodes.address, log_to_driver=False, runtime_env=RESIZE_OFTEN)
        seen = []

        def watch(figures):
            seen.append((figures["step"], figures["workers"]))
            if len(seen) == 2:
                nodes.remove_node(lost, allow_graceful=False)
            if len(seen) == 4:
                nodes.add_node(num_cpus=1)

        settings = config(workspace, train__steps=14000, train__eval_every=500)
        result, _ = train_run(settings, workspace, "elastic", workers=(1, 2), watch=watch)
    finally:
        ray.shutdown()
        nodes.shutdown()
    workers = [count for _, count in seen]
    assert 1.0 in workers and workers[:2] == [2.0] * 2
    assert workers[workers.index(1.0) :].count(2.0) > 0  # it has grown again
    assert [f["step"] for f in result.history] == [500.0 * (i + 1) for i in range(28)]  # no interval is missing
    assert result.best["ndcg_at_10"] > 0.4


@pytest.mark.slow
def test_an_error_of_the_code_is_shown_with_its_line(workspace):
    (workspace.runs / "broken").mkdir(parents=True)
    (workspace.runs / "broken" / "checkpoint").write_text("a file where a folder is needed")
    with (
        join_cluster(workspace, cpus=2),
        pytest.raises(TrainingError, match=r"failed on worker 0: FileExistsError.*files\.py:\d+ in write_atomically"),
    ):
        train_run(config(workspace, train__steps=10), workspace, "broken", workers=2)


TRACE = f"""Traceback (most recent call last):
  File "/lib/ray/worker.py", line 10, in run
    return loop()
  File "/home/me/tree.py", line 42, in forward
    return x + y
  File "{Path(os.__file__)}", line 7, in add
TypeError: unsupported operand
"""


def test_the_line_that_raised_is_found_behind_collateral_failures():
    peers = {0: RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"), 1: RuntimeError(TRACE)}
    text = explain_failure(WorkerGroupError("two workers failed", peers))
    assert text == ("training failed on worker 1: TypeError: unsupported operand (/home/me/tree.py:42 in forward)")
    bare = {0: TypeError("unsupported operand"), 1: RuntimeError("Connection closed by peer")}
    message = f"[Rank 1 Error Snippet]:\nRuntimeError: Connection closed by peer\n[Rank 0,2 Error Snippet]:\n{TRACE}"
    assert explain_failure(WorkerGroupError(message, bare)) == text.replace("worker 1", "worker 0")
    assert "no room" in explain_failure(ControllerError(RuntimeError("no room")))


def test_a_finished_run_is_refused_unless_its_result_is_reused(workspace):
    settings = config(workspace, train__steps=10)
    first, _ = train_run(settings, workspace, "done")
    again, _ = train_run(settings, workspace, "done")
    assert again.history == first.history
    with pytest.raises(ConfigError, match="run done: is finished already; choose another --name"):
        train_run(settings, workspace, "done", reuse_finished=False)
    with pytest.raises(ConfigError, match="run done: is taken by another configuration"):
        train_run(config(workspace, train__steps=20), workspace, "done", reuse_finished=False)

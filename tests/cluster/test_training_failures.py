"""Workers and nodes that die under a training: it goes on from the last checkpoint and gives the same tree."""

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

from retreever.cluster.launch_training import train
from retreever.cluster.ray_runtime import cluster
from retreever.cluster.training_failures import explain
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
    """Processes of Ray Train's workers that descend from this one."""
    import psutil  # Ray carries it, and finds it once ray is imported

    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += [process] if "RayTrainWorker" in " ".join(process.cmdline()) else []
    return found


class Killer(threading.Thread):
    """Kills one worker, drawn by seed, some time after each of the first checkpoints."""

    def __init__(self, folder: Path, times: int):
        super().__init__(daemon=True)
        self.folder, self.times = folder, times
        self.killed: list[int] = []

    def run(self):
        draw = random.Random(0)
        for _ in range(self.times):
            while checkpoint.steps(self.folder) <= (self.killed[-1] if self.killed else 0):
                time.sleep(0.05)
            time.sleep(draw.random())
            victims = workers()
            while len(victims) < 2:
                time.sleep(0.05)
                victims = workers()
            self.killed.append(checkpoint.steps(self.folder))
            os.kill(draw.choice(victims).pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_worker_killed_five_times_changes_nothing(workspace):
    settings = config(workspace, train__steps=1600, train__eval_every=200)
    with cluster(workspace, cpus=2):
        whole, _ = train(settings, workspace, "whole", workers=2)
        killer = Killer(workspace.runs / "hurt" / "checkpoint", times=5)
        killer.start()
        hurt, _ = train(settings, workspace, "hurt", workers=2)
    assert len(killer.killed) == 5
    assert [f["step"] for f in hurt.history] == [f["step"] for f in whole.history]
    ours, theirs = ([f["ndcg_at_10"] for f in result.history] for result in (hurt, whole))
    assert ours == pytest.approx(theirs, abs=1e-6)


LOOK_OFTEN = {  # an elastic run looks every 2 s whether it can grow; Ray calls it in all of its processes
    "worker_process_setup_hook": "tests.support.elastic.look_often",
    "env_vars": {"PYTHONPATH": str(Path(__file__).parents[2])},
}


@pytest.mark.slow
def test_an_elastic_run_outlives_a_node_and_takes_in_a_new_one(workspace, monkeypatch):
    with cluster(workspace, cpus=1):
        pass  # Ray settles once per process how it authenticates; from here on it is by token, for the nodes below too
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "60")
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        lost = nodes.add_node(num_cpus=1)
        nodes.add_node(num_cpus=1)
        ray.init(address=nodes.address, log_to_driver=False, runtime_env=LOOK_OFTEN)
        seen = []

        def watch(figures):
            seen.append((figures["step"], figures["workers"]))
            if len(seen) == 2:
                nodes.remove_node(lost, allow_graceful=False)
            if len(seen) == 4:
                nodes.add_node(num_cpus=1)

        settings = config(workspace, train__steps=14000, train__eval_every=500)
        result, _ = train(settings, workspace, "elastic", workers=(1, 2), watch=watch)
    finally:
        ray.shutdown()
        nodes.shutdown()
    crews = [crew for _, crew in seen]
    assert 1.0 in crews and crews[:2] == [2.0] * 2
    assert crews[crews.index(1.0) :].count(2.0) > 0  # it has grown again
    assert [f["step"] for f in result.history] == [500.0 * (i + 1) for i in range(28)]  # no interval is missing
    assert result.best["ndcg_at_10"] > 0.4


@pytest.mark.slow
def test_an_error_of_the_code_is_shown_with_its_line(workspace):
    (workspace.runs / "broken").mkdir(parents=True)
    (workspace.runs / "broken" / "checkpoint").write_text("a file where a folder is needed")
    with (
        cluster(workspace, cpus=2),
        pytest.raises(TrainingError, match=r"failed on worker 0: FileExistsError.*files\.py:\d+ in write_aside"),
    ):
        train(config(workspace, train__steps=10), workspace, "broken", workers=2)


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
    text = explain(WorkerGroupError("two workers failed", peers))
    assert text == ("training failed on worker 1: TypeError: unsupported operand (/home/me/tree.py:42 in forward)")
    bare = {0: TypeError("unsupported operand"), 1: RuntimeError("Connection closed by peer")}
    message = f"[Rank 1 Error Snippet]:\nRuntimeError: Connection closed by peer\n[Rank 0,2 Error Snippet]:\n{TRACE}"
    assert explain(WorkerGroupError(message, bare)) == text.replace("worker 1", "worker 0")
    assert "no room" in explain(ControllerError(RuntimeError("no room")))


def test_a_finished_run_is_refused_where_it_is_not_wanted_again(workspace):
    settings = config(workspace, train__steps=10)
    first, _ = train(settings, workspace, "done")
    again, _ = train(settings, workspace, "done")
    assert again.history == first.history
    with pytest.raises(ConfigError, match="run done: is finished already; choose another --name"):
        train(settings, workspace, "done", again=False)
    with pytest.raises(ConfigError, match="run done: is taken by another configuration"):
        train(config(workspace, train__steps=20), workspace, "done", again=False)

"""Starting one training: in this process for one worker, by Ray Train for more, and starting it again when it is hurt.

A worker or a node that is lost costs what was done since the last checkpoint; the group starts again by itself, as
often as it has got further in between.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from retreever.cluster.checkpoint_mirror import Mirror
from retreever.cluster.ray_runtime import cluster
from retreever.cluster.train_job import Job
from retreever.cluster.train_worker import figures_of, reports
from retreever.cluster.training_failures import explain
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset, open_dataset
from retreever.errors import ConfigError, RetreeverError, TrainingError
from retreever.system.files import read_json, write_json
from retreever.system.progress import Track, silent
from retreever.system.workspace import Workspace
from retreever.tracking.run_record import begin
from retreever.tracking.tracker import Tracker
from retreever.training import checkpoint
from retreever.training.training_loop import Result, result

Watch = Callable[[dict[str, float]], object]
"""Called with every validation's figures."""

Workers = int | tuple[int, int]
"""How many; or the fewest and the most, between which a run shrinks and grows with the cluster."""

RESTARTS = 3  # without a step of progress
RESIZE_S = 30.0  # how often an elastic run looks whether it can grow
ASK_EVERY = 10  # steps between two questions whether a node is about to be taken back: each is a barrier


def train(
    config: Config,
    workspace: Workspace,
    name: str,
    *,
    workers: Workers = 1,
    gpu: bool = False,
    parent: str | None = None,
    tags: dict[str, str] | None = None,
    again: bool = True,
    track: Track = silent,
    watch: Watch = lambda figures: None,
) -> tuple[Result, str]:
    """Train one tree under `runs/NAME`, tracked in MLflow; resume it if it was interrupted.

    Args:
        again: give the result of a run that is finished already, instead of refusing its name.
        parent: MLflow run to nest under.
        track: shows steps where the training runs in this process.
        watch: sees every validation's figures.

    Returns:
        The result and the id of its MLflow run.

    Raises:
        ConfigError: the run name is taken by another configuration, or by a finished run.
        TrainingError: the training failed; the message has the line of code that raised.
    """
    folder = workspace.runs / name
    mirror = Mirror.of(Job({}, str(workspace.root), str(folder)))
    mirror.restore()
    if (folder / "model").is_dir() and not again:
        _refuse_finished(folder, config)
    data = open_dataset(config, workspace, track)  # encodes what is not in the store, once, before any worker starts
    tracker = Tracker.of(workspace)
    run_id = _run_of(folder, config, data, tracker, workspace, parent=parent, workers=workers, tags=tags or {})
    if (folder / "model").is_dir():
        return result(folder), run_id
    job = Job(config.model_dump(mode="json"), str(workspace.root), str(folder), tracker.uri, run_id)
    try:
        if workers == 1 and not gpu:
            _train_here(job, track, watch)
        else:
            with cluster(workspace):
                _train_there(job, workers, gpu, watch)
            mirror.restore()
    finally:
        if tracker.run(run_id).info.status == "RUNNING":
            tracker.end(run_id, "KILLED")
    return result(folder), run_id


def _train_here(job: Job, track: Track, watch: Watch) -> None:
    threads = os.cpu_count() or 1
    for report in reports(Job(**(job.plain() | {"threads": threads})), track=track):
        watch(report.metrics)


def _train_there(job: Job, workers: Workers, gpu: bool, watch: Watch) -> None:
    """Ray Train in a thread's stead: reports come back through a queue while `fit` blocks.

    Both stay on this node: a worker's node may be lost, and the run must outlive it.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    try:
        fitting = _fit_remotely.options(num_cpus=0, scheduling_strategy=here).remote(job.plain(), workers, gpu, queue)
        while True:
            ready, _ = ray.wait([fitting], timeout=0.2)
            _drain(queue, watch)
            if ready:
                ray.get(fitting)
                return
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RetreeverError):  # itself: Ray's own would show the traceback of the task first
            raise error.cause from None
        raise
    finally:
        queue.shutdown()


@ray.remote
def _fit_remotely(job: dict[str, Any], workers: Workers, gpu: bool, queue: Queue) -> None:
    run_train(Job(**job), workers, gpu=gpu, queue=queue)


def _drain(queue: Queue, watch: Watch) -> None:
    while True:
        try:
            watch(queue.get(block=False))
        except Empty:
            return


def run_train(
    job: Job, workers: Workers, *, gpu: bool, callbacks: list[Any] | None = None, queue: Queue | None = None
) -> None:
    """Run `job` with Ray Train on a cluster already joined; returns when it is done.

    Raises:
        TrainingError: the training failed as often as it may; the message has the line of code that raised.
    """
    mirror = Mirror.of(job)
    while True:
        before = mirror.steps()
        try:
            fault = _trainer(job, mirror, workers, gpu, callbacks or [], queue).fit().return_value
        except TrainingFailedError as error:
            if mirror.steps() == before:
                raise TrainingError(explain(error)) from error
            continue
        if fault:
            raise TrainingError(str(fault))
        return


def _trainer(
    job: Job, mirror: Mirror, workers: Workers, gpu: bool, callbacks: list[Any], queue: Queue | None
) -> TorchTrainer:
    stored: dict[str, Any] = {"storage_path": str(Path(job.folder) / "ray")}
    if mirror.storage:
        stored = {
            "storage_path": f"{mirror.storage.root}/{mirror.name}/ray",
            "storage_filesystem": mirror.storage.files,
        }
    return TorchTrainer(
        _worker_loop,
        train_loop_config={"job": job.plain(), "queue": queue},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu, elastic_resize_monitor_interval_s=RESIZE_S),
        torch_config=TorchConfig(timeout_s=300),
        run_config=RunConfig(
            name=f"train-{Path(job.folder).name}",
            failure_config=FailureConfig(max_failures=RESTARTS, controller_failure_limit=RESTARTS),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            callbacks=callbacks,
            **stored,
        ),
    )


def _worker_loop(settings: dict[str, Any]) -> str | None:
    """What every Ray Train worker runs; an error of ours comes back as a text, since trying again would not mend it."""
    first = ray.train.get_context().get_world_rank() == 0
    try:
        for report in reports(Job(**settings["job"]), device=str(get_device()), urgent=_leaving()):
            ray.train.report(figures_of(report))
            if first and settings["queue"] is not None:
                settings["queue"].put(report.metrics)
    except RetreeverError as error:
        return str(error)
    return None


def _leaving() -> Callable[[int], bool]:
    """Whether a node of ours has been given notice since we asked last."""
    known: set[str] = set()

    def urgent(step: int) -> bool:
        notice = None if step % ASK_EVERY else ray.train.get_preemption_info()
        new = set(notice.preempted_node_ids) - known if notice else set()
        known.update(new)
        return bool(new)

    return urgent


def _refuse_finished(folder: Path, config: Config) -> None:
    if checkpoint.read_state(folder / "checkpoint").config_digest == config.digest:
        raise ConfigError([f"run {folder.name}: is finished already; choose another --name or remove {folder}"])


def _run_of(
    folder: Path, config: Config, data: EncodedDataset, tracker: Tracker, workspace: Workspace, **begins: Any
) -> str:
    """The MLflow run of `folder`: the one it has had, or a new one."""
    record, name = folder / "run.json", folder.name
    if record.is_file():
        known = read_json(record)
        if known["config_digest"] != config.digest:
            raise ConfigError(
                [f"run {name}: is taken by another configuration; choose another --name or remove {folder}"]
            )
        if tracker.exists(known["run_id"]):
            return str(known["run_id"])
    run_id = begin(tracker, workspace, name, config, data, **begins)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(record, {"run_id": run_id, "config_digest": config.digest})
    return run_id

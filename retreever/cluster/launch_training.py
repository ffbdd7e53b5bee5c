"""Start one training: in this process for one worker, with Ray Train for more; start it again after a failure.

The loss of a worker or a node costs the steps since the last checkpoint. The group of workers then restarts by itself,
as long as it makes progress between two failures.
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

from retreever.cluster.checkpoint_mirror import CheckpointMirror
from retreever.cluster.ray_runtime import join_cluster
from retreever.cluster.train_job import TrainingJob
from retreever.cluster.train_worker import figures_of, run_job
from retreever.cluster.training_failures import explain_failure
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset, open_encoded_dataset
from retreever.errors import ConfigError, RetreeverError, TrainingError
from retreever.system.files import read_json
from retreever.system.progress import Track, track_silently
from retreever.system.workspace import Workspace
from retreever.tracking.run_record import RUN_RECORD, begin_run
from retreever.tracking.tracker import Tracker
from retreever.training import checkpoint
from retreever.training.training_loop import TrainingResult, load_training_result

ValidationCallback = Callable[[dict[str, float]], object]
"""Called with every validation's figures."""

WorkerCount = int | tuple[int, int]
"""A number; or the fewest and the most, between which an elastic run shrinks and grows with the cluster."""

MAX_RESTARTS = 3  # without a step of progress
RESIZE_INTERVAL_S = 30.0  # seconds between two checks whether an elastic run can grow
PREEMPTION_CHECK_STEPS = 10  # steps between two checks for a preemption notice: each check is a barrier


def train_run(
    config: Config,
    workspace: Workspace,
    name: str,
    *,
    workers: WorkerCount = 1,
    gpu: bool = False,
    parent: str | None = None,
    tags: dict[str, str] | None = None,
    reuse_finished: bool = True,
    track: Track = track_silently,
    watch: ValidationCallback = lambda figures: None,
) -> tuple[TrainingResult, str]:
    """Train one tree under `runs/NAME`, tracked in MLflow; resume it if it was interrupted.

    Args:
        parent: MLflow run to nest under.
        tags: of the MLflow run.
        reuse_finished: return the result of a run that is finished already, instead of refusing its name.
        track: shows the steps of a training in this process.
        watch: receives every validation's figures.

    Returns:
        The result and the id of its MLflow run.

    Raises:
        ConfigError: the run name is taken by another configuration, or by a finished run.
        TrainingError: the training failed; the message has the line of code that raised.
    """
    folder = workspace.runs / name
    mirror = CheckpointMirror.of(TrainingJob({}, str(workspace.root), str(folder)))
    mirror.restore()
    if (folder / "model").is_dir() and not reuse_finished:
        _refuse_if_finished(folder, config)
    data = open_encoded_dataset(config, workspace, track)  # encodes, once, before any worker starts
    for guard in config.guards.values():
        open_encoded_dataset(guard, workspace, track)
    tracker = Tracker.of(workspace)
    run_id = _open_run(folder, config, data, tracker, workspace, parent=parent, workers=workers, tags=tags or {})
    if (folder / "model").is_dir():
        return load_training_result(folder), run_id
    job = TrainingJob(config.model_dump(mode="json"), str(workspace.root), str(folder), tracker.uri, run_id)
    with tracker.keep_running(run_id):
        if workers == 1 and not gpu:
            _train_in_process(job, track, watch)
        else:
            with join_cluster(workspace):
                _train_on_cluster(job, workers, gpu, watch)
            mirror.restore()
    return load_training_result(folder), run_id


def _train_in_process(job: TrainingJob, track: Track, watch: ValidationCallback) -> None:
    threads = os.cpu_count() or 1
    for report in run_job(TrainingJob(**(job.to_dict() | {"threads": threads})), track=track):
        watch(report.metrics)


def _train_on_cluster(job: TrainingJob, workers: WorkerCount, gpu: bool, watch: ValidationCallback) -> None:
    """Run Ray Train in a task, since `fit` blocks; reports come back through a queue.

    Task and queue stay on this node, so that the run survives the loss of a worker's node.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    try:
        fitting = _fit_remotely.options(num_cpus=0, scheduling_strategy=here).remote(job.to_dict(), workers, gpu, queue)
        while True:
            ready, _ = ray.wait([fitting], timeout=0.2)
            _drain(queue, watch)
            if ready:
                ray.get(fitting)
                return
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RetreeverError):  # our own error: Ray's would show the task's traceback first
            raise error.cause from None
        raise
    finally:
        queue.shutdown()


@ray.remote
def _fit_remotely(job: dict[str, Any], workers: WorkerCount, gpu: bool, queue: Queue) -> None:
    run_ray_train(TrainingJob(**job), workers, gpu=gpu, queue=queue)


def _drain(queue: Queue, watch: ValidationCallback) -> None:
    while True:
        try:
            watch(queue.get(block=False))
        except Empty:
            return


def run_ray_train(
    job: TrainingJob, workers: WorkerCount, *, gpu: bool, callbacks: list[Any] | None = None, queue: Queue | None = None
) -> None:
    """Run `job` with Ray Train on the cluster that this process has joined; return when it is done.

    Raises:
        TrainingError: the training failed too often without progress; the message has the line of code that raised.
    """
    mirror = CheckpointMirror.of(job)
    while True:
        before = mirror.latest_step()
        try:
            fault = _make_trainer(job, mirror, workers, gpu, callbacks or [], queue).fit().return_value
        except TrainingFailedError as error:
            if mirror.latest_step() == before:
                raise TrainingError(explain_failure(error)) from error
            continue
        if fault:
            raise TrainingError(str(fault))
        return


def _make_trainer(
    job: TrainingJob,
    mirror: CheckpointMirror,
    workers: WorkerCount,
    gpu: bool,
    callbacks: list[Any],
    queue: Queue | None,
) -> TorchTrainer:
    stored: dict[str, Any] = {"storage_path": str(Path(job.folder) / "ray")}
    if mirror.storage:
        stored = {
            "storage_path": f"{mirror.storage.root}/{mirror.name}/ray",
            "storage_filesystem": mirror.storage.files,
        }
    return TorchTrainer(
        _worker_loop,
        train_loop_config={"job": job.to_dict(), "queue": queue},
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=gpu, elastic_resize_monitor_interval_s=RESIZE_INTERVAL_S
        ),
        torch_config=TorchConfig(timeout_s=300),
        run_config=RunConfig(
            name=f"train-{Path(job.folder).name}",
            failure_config=FailureConfig(max_failures=MAX_RESTARTS, controller_failure_limit=MAX_RESTARTS),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            callbacks=callbacks,
            **stored,
        ),
    )


def _worker_loop(settings: dict[str, Any]) -> str | None:
    """What every Ray Train worker runs; one of our errors is returned as text, since a restart would not cure it."""
    first = ray.train.get_context().get_world_rank() == 0
    try:
        for report in run_job(
            TrainingJob(**settings["job"]), device=str(get_device()), must_save=_make_preemption_check()
        ):
            ray.train.report(figures_of(report))
            if first and settings["queue"] is not None:
                settings["queue"].put(report.metrics)
    except RetreeverError as error:
        return str(error)
    return None


def _make_preemption_check() -> Callable[[int], bool]:
    """A function of the step: whether a node has received a preemption notice since the last check."""
    known: set[str] = set()

    def must_save(step: int) -> bool:
        notice = None if step % PREEMPTION_CHECK_STEPS else ray.train.get_preemption_info()
        new = set(notice.preempted_node_ids) - known if notice else set()
        known.update(new)
        return bool(new)

    return must_save


def _refuse_if_finished(folder: Path, config: Config) -> None:
    if checkpoint.read_training_state(folder / "checkpoint").config_digest == config.digest:
        raise ConfigError([f"run {folder.name}: is finished already; choose another --name or remove {folder}"])


def _open_run(
    folder: Path, config: Config, data: EncodedDataset, tracker: Tracker, workspace: Workspace, **begins: Any
) -> str:
    """The MLflow run of `folder`, started on first use."""
    record, name = folder / RUN_RECORD, folder.name
    if record.is_file() and read_json(record)["config_digest"] != config.digest:
        raise ConfigError([f"run {name}: is taken by another configuration; choose another --name or remove {folder}"])
    return tracker.find_or_start(
        record,
        lambda: begin_run(tracker, workspace, name, config, data, **begins),
        config_digest=config.digest,
    )

"""The one function that trains: called in a notebook's process, in a Tune trial's and by every Ray Train worker.

Rank 0 logs every report to MLflow; the caller receives the same reports from the generator. Tune, Train and the cluster
are not known here.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from retreever import config as configs
from retreever.cluster.checkpoint_mirror import CheckpointMirror
from retreever.cluster.train_job import TrainingJob
from retreever.config import Config, EncoderConfig
from retreever.encoding.encoding_store import EncodedDataset, open_encoded_dataset
from retreever.evaluation.metrics import METRIC
from retreever.system import memory
from retreever.system.progress import Track, track_silently
from retreever.system.workspace import Workspace
from retreever.tracking.run_log import RunLog
from retreever.training import distributed
from retreever.training.training_loop import ValidationReport, epochs, load_training_result

LAST_REPORT_KEY = "last"
"""Key of a report: whether the training ended by itself. Tune's own `done` is set for stopped trials as well."""


@functools.lru_cache(maxsize=8)  # a sweep's data sets and its guard sets
def _open_cached_data(name: str, on_bad: str, encoder: EncoderConfig, root: str) -> EncodedDataset:
    config = configs.build_config(
        {"data": {"name": name, "on_bad": on_bad}, "encoder": encoder.model_dump(mode="json")}
    )
    return open_encoded_dataset(config, Workspace(Path(root)))


def open_job_data(job: TrainingJob) -> EncodedDataset:
    """The encoded data set of a job, opened once per process."""
    return _open_configured_data(configs.build_config(job.config), job)


def _open_configured_data(config: Config, job: TrainingJob) -> EncodedDataset:
    return _open_cached_data(config.data.name, config.data.on_bad, config.encoding, job.workspace)


def run_job(
    job: TrainingJob,
    *,
    device: str = "cpu",
    track: Track = track_silently,
    must_save: Callable[[int], bool] = lambda step: False,
) -> Iterator[ValidationReport]:
    """Train as `job` says and yield every validation's report; the MLflow run ends as the training ends.

    Checkpoints and the finished model also go to shared storage, if the workspace has one.

    Args:
        must_save: see `epochs`.
    """
    config = configs.build_config(job.config)
    torch.set_num_threads(job.threads)
    memory.keep_freed_memory()
    data = _open_configured_data(config, job)
    guards = {name: _open_configured_data(guard, job) for name, guard in config.guards.items()}
    tracked = job.tracking_uri is not None and job.run_id is not None and distributed.rank() == 0
    folder, mirror = Path(job.folder), CheckpointMirror.of(job)
    distributed.run_on_rank_zero(mirror.restore)
    with RunLog.of(str(job.tracking_uri), str(job.run_id), folder) if tracked else nullcontext() as log:
        for report in epochs(
            config,
            data,
            folder,
            guards=guards,
            device=device,
            track=track,
            must_save=must_save,
            on_checkpoint=mirror.store_checkpoint,
        ):
            if log:
                log.log_report(report)
            yield report
        if distributed.rank() == 0:
            mirror.store_model()
        if log:
            log.log_result(load_training_result(folder).history, data)


def figures_of(report: ValidationReport) -> dict[str, Any]:
    """The part of a report that Train, Tune and its scheduler see: plain numbers, with the tuned metric if measured."""
    tuned = {METRIC: report.metrics[METRIC]} if METRIC in report.metrics else {}
    return {
        **tuned,
        "epoch": report.epoch,
        LAST_REPORT_KEY: report.is_last,
        "done": report.is_last,
    }

"""The one function that trains: called in a notebook's process, in a Tune trial's and by every Ray Train worker.

Reports go to MLflow from rank 0 and to whoever
consumes the generator.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from retreever import config as configs
from retreever.cluster.checkpoint_mirror import Mirror
from retreever.cluster.train_job import Job
from retreever.config import EncoderConfig
from retreever.encoding.encoding_store import EncodedDataset, open_dataset
from retreever.evaluation.metrics import METRIC
from retreever.system import memory
from retreever.system.progress import Track, silent
from retreever.system.workspace import Workspace
from retreever.tracking.run_log import RunLog
from retreever.training import distributed
from retreever.training.training_loop import Report, epochs, result

LAST = "last"
"""Key of a report that says whether the training ended by itself; Tune sets `done` for stopped trials as well."""


@functools.lru_cache(maxsize=2)
def _cached(name: str, on_bad: str, encoder: EncoderConfig, root: str) -> EncodedDataset:
    config = configs.build({"data": {"name": name, "on_bad": on_bad}, "encoder": encoder.model_dump(mode="json")})
    return open_dataset(config, Workspace(Path(root)))


def open_data(job: Job) -> EncodedDataset:
    """The encoded data set of a job, opened once in a process that trains many."""
    config = configs.build(job.config)
    return _cached(config.data.name, config.data.on_bad, config.encoding, job.workspace)


def reports(
    job: Job,
    *,
    device: str = "cpu",
    track: Track = silent,
    urgent: Callable[[int], bool] = lambda step: False,
) -> Iterator[Report]:
    """Train as `job` says and yield every validation's report; the MLflow run is ended as the training ended.

    Checkpoints and the finished model are kept in shared storage too, where there is one.

    Args:
        urgent: see `training.epochs`.
    """
    config = configs.build(job.config)
    torch.set_num_threads(job.threads)
    memory.keep_freed()
    data = open_data(job)
    tracked = job.tracking_uri is not None and job.run_id is not None and distributed.rank() == 0
    log = RunLog(str(job.tracking_uri), str(job.run_id), Path(job.folder)) if tracked else None
    folder, mirror = Path(job.folder), Mirror.of(job)
    distributed.agree(mirror.restore)
    try:
        for report in epochs(config, data, folder, device=device, track=track, urgent=urgent, saved=mirror.keep):
            if log:
                log.report(report)
            yield report
    except GeneratorExit:
        if log:
            log.stopped()
        raise
    except Exception as error:
        if log:
            log.failed(error)
        raise
    if distributed.rank() == 0:
        mirror.finish()
    if log:
        log.finished(result(folder).history, data)


def figures_of(report: Report) -> dict[str, Any]:
    """What Train, Tune and its scheduler see of a report: plain numbers, always with the tuned metric."""
    return {METRIC: report.metrics[METRIC], "epoch": report.epoch, LAST: report.last, "done": report.last}

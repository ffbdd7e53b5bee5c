"""What Ray Tune runs: a trial in the trial's own process, or a Ray Train run where a trial has many workers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.result import DONE

from retreever.cluster.launch_training import run_train
from retreever.cluster.train_job import Job
from retreever.cluster.train_worker import LAST, figures_of, reports
from retreever.evaluation.metrics import METRIC
from retreever.sweeps.trial_latency import LATENCY, latency
from retreever.system.files import write_json
from retreever.training.training_loop import Report, result

ACTOR = "actor.json"
"""In a trial's folder: the actor that runs it, by which a message of Ray's about an actor is understood."""


class TreeTrial(tune.Trainable):
    """One worker, in this process: each `step` trains up to the next validation. Processes are used again."""

    def setup(self, config: dict[str, Any]) -> None:
        """Open the job; nothing is trained yet."""
        self._job = job = Job(**config["trial"]["job"])
        self._folder, self._timed = Path(job.folder), bool(config["trial"]["timed"])
        write_json(self._folder / ACTOR, {"actor": ray.get_runtime_context().get_actor_id()})
        self._reports: Iterator[Report] = reports(job)

    def step(self) -> dict[str, Any]:
        """Train up to the next validation and report it."""
        report = next(self._reports, None)
        if report is None:  # it was interrupted after its last validation
            history = result(self._folder).history
            return {METRIC: history[-1][METRIC], "epoch": len(history), LAST: True, DONE: True} | self._latency()
        if not report.last:
            return figures_of(report)
        next(self._reports, None)  # lets the training export its model and end its run
        return figures_of(report) | self._latency()

    def _latency(self) -> dict[str, float]:
        return {LATENCY: latency(self._job)} if self._timed else {}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Nothing for Tune to keep: the training saves its own state in its own folder."""
        return {}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial into this process."""
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """End the job; one that was stopped early says so in MLflow."""
        close = getattr(self._reports, "close", None)
        if close:
            close()


def train_driver(config: dict[str, Any]) -> None:
    """A trial of many workers: a Ray Train run whose reports reach Tune."""
    trial = config["trial"]
    job = Job(**trial["job"])
    run_train(job, trial["workers"], gpu=False, callbacks=[TuneReportCallback()])
    if trial["timed"]:
        history = result(Path(job.folder)).history
        tune.report({METRIC: history[-1][METRIC], "epoch": len(history), LAST: True, LATENCY: latency(job)})

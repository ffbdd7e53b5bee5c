"""What Ray Tune runs: a trial in Tune's own process, or a Ray Train run if a trial has several workers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.result import DONE

from retreever.cluster.launch_training import run_ray_train
from retreever.cluster.train_job import TrainingJob
from retreever.cluster.train_worker import LAST_REPORT_KEY, figures_of, run_job
from retreever.evaluation.metrics import METRIC
from retreever.sweeps.trial_latency import LATENCY_METRIC, measure_trial_latency
from retreever.system.files import write_json
from retreever.training.training_loop import ValidationReport, load_training_result

ACTOR_FILE = "actor.json"
"""File in a trial's folder with the id of the actor that runs it; messages from Ray name actors by it."""


class TreeTrial(tune.Trainable):
    """A trial of one worker, in this process. Each `step` trains up to the next validation. Tune reuses the process."""

    def setup(self, config: dict[str, Any]) -> None:
        """Open the job; training starts with the first step."""
        self._job = job = TrainingJob(**config["trial"]["job"])
        self._folder, self._measures_latency = Path(job.folder), bool(config["trial"]["timed"])
        write_json(self._folder / ACTOR_FILE, {"actor": ray.get_runtime_context().get_actor_id()})
        self._reports: Iterator[ValidationReport] = run_job(job)

    def step(self) -> dict[str, Any]:
        """Train up to the next validation and report it."""
        report = next(self._reports, None)
        if report is None:  # an earlier call was interrupted after the last validation
            history = load_training_result(self._folder).history
            return {
                METRIC: history[-1][METRIC],
                "epoch": len(history),
                LAST_REPORT_KEY: True,
                DONE: True,
            } | self._measure_latency()
        if not report.is_last:
            return figures_of(report)
        next(self._reports, None)  # the training exports its model and ends its run
        return figures_of(report) | self._measure_latency()

    def _measure_latency(self) -> dict[str, float]:
        return {LATENCY_METRIC: measure_trial_latency(self._job)} if self._measures_latency else {}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Save nothing: the training saves its state in its own folder."""
        return {}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial into this process."""
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Close the job; the MLflow run of a trial that was stopped early ends as KILLED."""
        close = getattr(self._reports, "close", None)
        if close:
            close()


def run_train_trial(config: dict[str, Any]) -> None:
    """Run a trial of several workers as a Ray Train run whose reports reach Tune."""
    trial = config["trial"]
    job = TrainingJob(**trial["job"])
    run_ray_train(job, trial["workers"], gpu=False, callbacks=[TuneReportCallback()])
    if trial["timed"]:
        history = load_training_result(Path(job.folder)).history
        tune.report(
            {
                METRIC: history[-1][METRIC],
                "epoch": len(history),
                LAST_REPORT_KEY: True,
                LATENCY_METRIC: measure_trial_latency(job),
            }
        )

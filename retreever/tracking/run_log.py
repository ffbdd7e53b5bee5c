"""How one training reaches its MLflow run: every validation, the machine's load, plots, scores and how it ended."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from retreever.encoding.encoding_store import EncodedDataset
from retreever.errors import BundleError
from retreever.evaluation import training_plots
from retreever.tracking.tracker import Tracker
from retreever.trained_tree import load_model, route_encodings
from retreever.training import checkpoint
from retreever.training.training_loop import ValidationReport
from retreever.training.validation import QUERY_SCORES_FILE

SAMPLE_INTERVAL_S = 5.0
"""Seconds between two samples of the machine's load."""
logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)


class RunLog:
    """Writes one training to its MLflow run."""

    def __init__(self, tracker: Tracker, run_id: str, folder: Path):
        self.tracker, self.run_id, self.folder = tracker, run_id, folder
        self._catch_up()

    @classmethod
    @contextmanager
    def of(cls, tracking_uri: str, run_id: str, folder: Path) -> Iterator["RunLog"]:
        """Log the body to a run that was started before; the run ends as the body ends.

        Args:
            folder: of the training, which may resume from a checkpoint there.
        """
        tracker = Tracker(tracking_uri)
        with tracker.keep_running(run_id):
            log = cls(tracker, run_id, folder)
            monitor = SystemMetricsMonitor(
                run_id, sampling_interval=SAMPLE_INTERVAL_S, resume_logging=True, tracking_uri=tracking_uri
            )
            monitor.start()
            try:
                yield log
            except GeneratorExit:  # the scheduler, or an interrupt, closed the training
                tracker.tag(run_id, {"stopped": "early"})
                log._log_best()
                raise
            finally:
                monitor.finish()

    def _catch_up(self) -> None:
        """Log the validations before an interrupt that did not reach MLflow."""
        try:
            history = checkpoint.read_training_state(self.folder / "checkpoint").history
        except BundleError:
            return
        logged = {point.step for point in self.tracker.client.get_metric_history(self.run_id, "step")}
        for epoch, figures in enumerate(history, 1):
            if int(figures["step"]) not in logged:
                self._log_validation(figures, epoch)
        if history:
            self.tracker.tag(self.run_id, {"resumed_at_step": f"{history[-1]['step']:.0f}"})

    def _log_validation(self, figures: dict[str, float], epoch: int) -> None:
        self.tracker.log(self.run_id, figures | {"epoch": float(epoch)}, int(figures["step"]))

    def log_report(self, report: ValidationReport) -> None:
        """Log the figures and warnings of a validation."""
        self._log_validation(report.metrics, report.epoch)
        if report.warnings:
            self.tracker.tag(self.run_id, {"warnings": "; ".join(report.warnings)})

    def log_result(self, history: list[dict[str, float]], data: EncodedDataset) -> None:
        """Log plots, the model and the best figures of a training that reached its end.

        Args:
            history: figures of every validation.
            data: whose passages the routing plot shows.
        """
        with tempfile.TemporaryDirectory() as scratch:
            for plot in self._draw_plots(history, data, Path(scratch)):
                self.tracker.log_artifact(self.run_id, plot, "plots")
        self.tracker.log_artifact(self.run_id, self.folder / "model", "checkpoint")
        self._log_best()

    def _log_best(self) -> None:
        """Log the figures of the best validation: means, and a file with every query's, where dev has any."""
        try:
            best = checkpoint.read_training_state(self.folder / "checkpoint").best
        except BundleError:
            return  # stopped before the first one
        if best:
            self.tracker.log(self.run_id, {f"best/{k}": v for k, v in best.items()}, int(best["step"]))
        if (self.folder / QUERY_SCORES_FILE).is_file():
            self.tracker.log_artifact(self.run_id, self.folder / QUERY_SCORES_FILE)

    def _draw_plots(self, history: list[dict[str, float]], data: EncodedDataset, folder: Path) -> list[Path]:
        """Plot the curves of a training, the similarities of its pairs, and the routing at every level.

        A tree that was not trained has no curves.
        """
        files = [folder / "routing.png"]
        if "loss" in history[0]:
            files += [folder / "training.png", folder / "similarities.png"]
            training_plots.plot_training(history, files[1])
            names = ("step", "similarity/positive", "similarity/negative")
            steps, positives, negatives = ([figures[name] for figures in history] for name in names)
            training_plots.plot_similarities(steps, positives, negatives, files[2])
        tree, config = load_model(self.folder / "model")
        nodes = np.concatenate(
            list(route_encodings(tree, config, data.passages, np.arange(min(1024, len(data.passages)))))
        )
        training_plots.plot_routing({d: nodes[:, tree.tree.level(d)] for d in range(1, tree.tree.depth + 1)}, files[0])
        return files

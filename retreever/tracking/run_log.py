"""How one training reaches its MLflow run: every validation, the machine's load, plots and scores, and its end."""

import logging
import tempfile
from pathlib import Path

import numpy as np
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from retreever.encoding.encoding_store import EncodedDataset
from retreever.errors import BundleError
from retreever.evaluation import training_plots
from retreever.evaluation.metrics import METRIC
from retreever.tracking.tracker import Tracker
from retreever.trained_tree import load_model, routed
from retreever.training import checkpoint
from retreever.training.training_loop import Report
from retreever.training.validation import SCORES

SAMPLED_EVERY = 5.0
"""Seconds between two samples of the machine's load."""
logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)


class RunLog:
    """Writes one training to a run that was started already; that training may be going on from a checkpoint."""

    def __init__(self, tracking_uri: str, run_id: str, folder: Path):
        self.tracker, self.run_id, self.folder = Tracker(tracking_uri), run_id, folder
        self.tracker.resume(run_id)
        self._catch_up()
        self._monitor = SystemMetricsMonitor(
            run_id, sampling_interval=SAMPLED_EVERY, resume_logging=True, tracking_uri=tracking_uri
        )
        self._monitor.start()

    def _catch_up(self) -> None:
        """Log what was validated before an interrupt and no longer reached MLflow."""
        try:
            history = checkpoint.read_state(self.folder / "checkpoint").history
        except BundleError:
            return
        logged = {point.step for point in self.tracker.client.get_metric_history(self.run_id, METRIC)}
        for epoch, figures in enumerate(history, 1):
            if int(figures["step"]) not in logged:
                self._log(figures, epoch)
        if history:
            self.tracker.tag(self.run_id, {"resumed_at_step": f"{history[-1]['step']:.0f}"})

    def _log(self, figures: dict[str, float], epoch: int) -> None:
        self.tracker.log(self.run_id, figures | {"epoch": float(epoch)}, int(figures["step"]))

    def report(self, report: Report) -> None:
        self._log(report.metrics, report.epoch)
        if report.warnings:
            self.tracker.tag(self.run_id, {"warnings": "; ".join(report.warnings)})

    def stopped(self) -> None:
        """The scheduler, or an interrupt, closed the training."""
        self._monitor.finish()
        self.tracker.tag(self.run_id, {"stopped": "early"})
        self._best()
        self.tracker.end(self.run_id, "KILLED")

    def failed(self, error: Exception) -> None:
        self._monitor.finish()
        self.tracker.tag(self.run_id, {"error": f"{type(error).__name__}: {error}"})
        self.tracker.end(self.run_id, "FAILED")

    def finished(self, history: list[dict[str, float]], data: EncodedDataset) -> None:
        self._monitor.finish()
        with tempfile.TemporaryDirectory() as scratch:
            for plot in self._plots(history, data, Path(scratch)):
                self.tracker.artifact(self.run_id, plot, "plots")
        self.tracker.artifact(self.run_id, self.folder / "model", "checkpoint")
        self._best()
        self.tracker.end(self.run_id)

    def _best(self) -> None:
        """Figures of the best validation, of all queries together and of each."""
        if not (self.folder / SCORES).is_file():
            return  # stopped before the first one
        best = checkpoint.read_state(self.folder / "checkpoint").best
        self.tracker.log(self.run_id, {f"best/{k}": v for k, v in best.items()}, int(best["step"]))
        self.tracker.artifact(self.run_id, self.folder / SCORES)

    def _plots(self, history: list[dict[str, float]], data: EncodedDataset, folder: Path) -> list[Path]:
        """Curves of the training, how positives and negatives part, and how passages are routed at every level."""
        files = [folder / f"{name}.png" for name in ("training", "similarities", "routing")]
        training_plots.plot_training(history, files[0])
        names = ("step", "similarity/positive", "similarity/negative")
        steps, positives, negatives = ([figures[name] for figures in history] for name in names)
        training_plots.plot_similarities(steps, positives, negatives, files[1])
        tree, config = load_model(self.folder / "model")
        nodes = np.concatenate(list(routed(tree, config, data.passages, np.arange(min(1024, len(data.passages))))))
        training_plots.plot_routing({d: nodes[:, tree.tree.level(d)] for d in range(1, tree.tree.depth + 1)}, files[2])
        return files

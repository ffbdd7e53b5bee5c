"""Find, read, compare and export the runs in MLflow; nothing here writes to the tracking server."""

import csv
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from retreever.errors import TrackingError
from retreever.evaluation.metrics import METRIC
from retreever.evaluation.query_scores import align_scores, read_scores
from retreever.evaluation.significance import bootstrap_interval, paired_p_value
from retreever.system.files import write_atomically, write_json
from retreever.system.workspace import Workspace
from retreever.tracking.run_record import CONFIG_FILE
from retreever.tracking.tracker import Tracker
from retreever.training.validation import QUERY_SCORES_FILE

KIND_TAG = "kind"
MINIMIZED_FIGURES = ("bytes_per_document", "latency_ms")
MIN_ID_PREFIX = 4
"""Fewest digits of a run's id that may name it, if no other id begins with them."""


@dataclass(frozen=True)
class LevelDifference:
    """Two runs at one level, on the same queries.

    Attributes:
        a, b: mean NDCG@10 of each.
        low, high: 95 % interval of a - b.
        p: two-sided p-value of the paired test that a and b are equal.
    """

    level: int
    a: float
    b: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class RunComparison:
    """Two runs on the same queries.

    Attributes:
        queries: how many both have answered.
        differences: one per level that both have, coarse to fine.
        settings: dotted names to the two values, where they differ.
        per_query: NDCG@10 of a - b at the last level in common.
    """

    queries: int
    differences: list[LevelDifference]
    settings: dict[str, tuple[str, str]]
    per_query: np.ndarray


def list_runs(
    tracker: Tracker, workspace: Workspace, *, where: str = "", kind: str | None = None, space: str | None = None
) -> list[Run]:
    """Runs of the workspace's experiment, the newest first.

    Args:
        where: in MLflow's search syntax, e.g. `tags.split = 'linear' and metrics.ndcg_at_10 > 0.3`.
        kind: sweep, trial, train or final.
        space: name of a search space.

    Raises:
        TrackingError: MLflow cannot parse `where`.
    """
    conditions = [f"tags.{name} = '{value}'" for name, value in ((KIND_TAG, kind), ("space", space)) if value]
    try:
        found = tracker.search(
            tracker.get_experiment(workspace), " and ".join([*conditions, *([where] if where else [])])
        )
        return sorted(found, key=lambda run: -run.info.start_time)
    except MlflowException as error:
        raise TrackingError(f"--where {where}: {error.message}") from None


def find_run(tracker: Tracker, workspace: Workspace, name: str) -> Run:
    """The run of that id, of an id that begins so, or of that name (the newest).

    Raises:
        TrackingError: there is no such run, or several ids begin so.
    """
    if tracker.exists(name):
        return tracker.get_run(name)
    runs = list_runs(tracker, workspace)
    named = [run for run in runs if run.info.run_name == name]
    if named:
        return named[0]
    begins = [run for run in runs if len(name) >= MIN_ID_PREFIX and run.info.run_id.startswith(name)]
    if len(begins) == 1:
        return begins[0]
    several = f": {', '.join(run.info.run_id[:12] for run in begins)}" if begins else ""
    raise TrackingError(
        f"run {name}: {'several ids begin so' if begins else 'no id and no name of a run'} at {tracker.uri}{several}"
    )


def read_figure(run: Run, name: str = METRIC) -> float | None:
    """A figure of a run's best validation; of its last one if the run logged no best."""
    metrics = run.data.metrics
    return metrics.get(f"best/{name}", metrics.get(name))


def rank_runs(runs: Sequence[Run], metric: str = METRIC, limits: Mapping[str, float] | None = None) -> list[Run]:
    """The finished trainings within all limits, the largest `metric` first; at least one.

    Args:
        limits: highest value for `bytes_per_document` and `latency_ms`, lowest value for every other figure.

    Raises:
        TrackingError: no run is within the limits; the message says how many meet each.
    """
    trained = [run for run in runs if run.data.tags.get(KIND_TAG) != "sweep" and run.info.status == "FINISHED"]
    candidates = [run for run in trained if read_figure(run, metric) is not None]
    counts = [f"{len(candidates)} finished with {metric}"]
    for name, limit in (limits or {}).items():
        candidates = [run for run in candidates if _is_within(read_figure(run, name), name, limit)]
        counts.append(f"{len(candidates)} with {name} {'<=' if name in MINIMIZED_FIGURES else '>='} {limit:g}")
    if not candidates:
        raise TrackingError(f"no run is within the limits: {', '.join(counts)}")
    return sorted(candidates, key=lambda run: -(read_figure(run, metric) or 0.0))


def _is_within(value: float | None, name: str, limit: float) -> bool:
    if value is None:
        return False
    return value <= limit if name in MINIMIZED_FIGURES else value >= limit


def download_scores(tracker: Tracker, run: Run) -> dict[str, np.ndarray]:
    """Every dev query's figures at a run's best validation.

    Raises:
        TrackingError: the run has none.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            return read_scores(Path(tracker.client.download_artifacts(run.info.run_id, QUERY_SCORES_FILE, folder)))
        except (MlflowException, OSError) as error:
            raise TrackingError(
                f"run {run.info.run_name} ({run.info.run_id}): has no {QUERY_SCORES_FILE}, which a comparison needs "
                f"({error})"
            ) from None


def compare_runs(tracker: Tracker, a: Run, b: Run) -> RunComparison:
    """Compare two runs, in pairs, on the dev queries that both have answered.

    Raises:
        TrackingError: the runs share no data set, no query or no level.
    """
    digests = [{known.dataset.digest for known in run.inputs.dataset_inputs} for run in (a, b)]
    if digests[0] != digests[1]:
        raise TrackingError(f"runs {a.info.run_name} and {b.info.run_name}: trained on different data sets")
    ours, theirs = align_scores([download_scores(tracker, a), download_scores(tracker, b)])
    names = [name for name in ours if name.startswith(f"{METRIC}/level_") and name in theirs]
    if not names or not len(ours["query"]):
        raise TrackingError(f"runs {a.info.run_name} and {b.info.run_name}: no dev query or no level in common")
    return RunComparison(
        len(ours["query"]),
        [_difference(int(name.rpartition("_")[2]), ours[name], theirs[name]) for name in sorted(names)],
        {
            name: (value, b.data.params.get(name, "-"))
            for name, value in a.data.params.items()
            if value != b.data.params.get(name)
        },
        ours[max(names)] - theirs[max(names)],
    )


def _difference(level: int, a: np.ndarray, b: np.ndarray) -> LevelDifference:
    low, high = bootstrap_interval(a - b)
    return LevelDifference(level, float(a.mean()), float(b.mean()), low, high, paired_p_value(a, b))


def export_run(tracker: Tracker, run: Run, target: Path) -> list[Path]:
    """Write a run to plain files: run.json, metrics.csv, reproduce.sh, all artifacts, and the trials of a sweep.

    Returns:
        The folders written, the run's own first.
    """
    with write_atomically(target) as aside:
        aside.mkdir()
        write_json(aside / "run.json", describe_run(run))
        _write_history(tracker, run, aside / "metrics.csv")
        if "reproduce" in run.data.tags:
            (aside / "reproduce.sh").write_text(f"#!/bin/sh\n{run.data.tags['reproduce']}\n", encoding="utf-8")
        with tempfile.TemporaryDirectory() as scratch:
            if tracker.client.list_artifacts(run.info.run_id):
                artifacts = Path(tracker.client.download_artifacts(run.info.run_id, "", scratch))
                shutil.copytree(artifacts, aside / "artifacts")
    written = [target]
    for child in tracker.list_children(run.info.run_id):
        written += export_run(tracker, child, target / "trials" / child.info.run_id)
    return written


def describe_run(run: Run) -> dict[str, Any]:
    """Everything MLflow holds of a run except its files and the history of its figures."""
    data = {known.dataset.name: known.dataset.digest for known in run.inputs.dataset_inputs}
    own = {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.") or k.startswith("mlflow.source")}
    return {
        "run_id": run.info.run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "started": format_start_time(run),
        "seconds": None if run.info.end_time is None else (run.info.end_time - run.info.start_time) / 1000,
        "data": data,
        "tags": own,
        "params": run.data.params,
        "metrics": run.data.metrics,
        "artifacts": run.info.artifact_uri,
    }


def format_start_time(run: Run) -> str:
    """The minute in which a run started, in UTC."""
    return datetime.fromtimestamp(run.info.start_time / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _write_history(tracker: Tracker, run: Run, path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["metric", "step", "value", "timestamp"])
        for name in sorted(run.data.metrics):
            for point in tracker.client.get_metric_history(run.info.run_id, name):
                writer.writerow([name, point.step, point.value, point.timestamp])


def download_config(tracker: Tracker, run: Run, folder: Path) -> Path:
    """Download a run's configuration to `folder`, as a file for `retreever train FILE`."""
    return Path(tracker.client.download_artifacts(run.info.run_id, CONFIG_FILE, str(folder)))

"""Runs as MLflow holds them, found, read, compared and taken out; nothing here writes to the tracking server."""

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
from retreever.evaluation.query_scores import aligned, read_scores
from retreever.evaluation.significance import interval, paired_p
from retreever.system.files import write_aside, write_json
from retreever.system.workspace import Workspace
from retreever.tracking.run_record import CONFIG
from retreever.tracking.tracker import Tracker
from retreever.training.validation import SCORES

KIND = "kind"
SHORTEST = 4
"""Digits of a run's id that are enough to name it, if they are its alone."""


@dataclass(frozen=True)
class Difference:
    """Two runs at one level, on the same queries.

    Attributes:
        a, b: mean NDCG@10 of each.
        low, high: 95 % interval of a - b.
        p: two-sided, of the paired test that they are equal.
    """

    level: int
    a: float
    b: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        queries: in common.
        differences: by level, coarse to fine, of the levels in common.
        settings: dotted names to the two values, where they differ.
        per_query: NDCG@10 of a - b at the last level in common.
    """

    queries: int
    differences: list[Difference]
    settings: dict[str, tuple[str, str]]
    per_query: np.ndarray


def listed(
    tracker: Tracker, workspace: Workspace, *, where: str = "", kind: str | None = None, space: str | None = None
) -> list[Run]:
    """Runs of the workspace's experiment, the newest first.

    Args:
        where: in MLflow's own words, e.g. `tags.split = 'linear' and metrics.ndcg_at_10 > 0.3`.
        kind: sweep, trial, train or final.
        space: name of a search space.

    Raises:
        TrackingError: MLflow does not understand `where`.
    """
    conditions = [f"tags.{name} = '{value}'" for name, value in ((KIND, kind), ("space", space)) if value]
    try:
        found = tracker.search(tracker.experiment(workspace), " and ".join([*conditions, *([where] if where else [])]))
        return sorted(found, key=lambda run: -run.info.start_time)
    except MlflowException as error:
        raise TrackingError(f"--where {where}: {error.message}") from None


def find(tracker: Tracker, workspace: Workspace, name: str) -> Run:
    """The run that `name` means: an id, the beginning of one, or a run's name (the newest of that name).

    Raises:
        TrackingError: none, or several ids that begin so.
    """
    if tracker.exists(name):
        return tracker.run(name)
    runs = listed(tracker, workspace)
    named = [run for run in runs if run.info.run_name == name]
    if named:
        return named[0]
    begins = [run for run in runs if len(name) >= SHORTEST and run.info.run_id.startswith(name)]
    if len(begins) == 1:
        return begins[0]
    several = f": {', '.join(run.info.run_id[:12] for run in begins)}" if begins else ""
    raise TrackingError(
        f"run {name}: {'several ids begin so' if begins else 'no id and no name of a run'} at {tracker.uri}{several}"
    )


def figure(run: Run, name: str = METRIC) -> float | None:
    """A figure of a run's best validation; of its last one where it did not come to its end."""
    metrics = run.data.metrics
    return metrics.get(f"best/{name}", metrics.get(name))


def ranked(runs: Sequence[Run], metric: str = METRIC, limits: Mapping[str, float] | None = None) -> list[Run]:
    """The finished trainings within all limits, the largest `metric` first; at least one.

    Args:
        limits: `bytes_per_document` and `latency_ms`: at most; every other figure: at least.

    Raises:
        TrackingError: none is within them; the message says how many each limit leaves.
    """
    trained = [run for run in runs if run.data.tags.get(KIND) != "sweep" and run.info.status == "FINISHED"]
    left = [run for run in trained if figure(run, metric) is not None]
    counts = [f"{len(left)} finished with {metric}"]
    for name, limit in (limits or {}).items():
        left = [run for run in left if _within(figure(run, name), name, limit)]
        counts.append(f"{len(left)} with {name} {'<=' if name in SMALLER else '>='} {limit:g}")
    if not left:
        raise TrackingError(f"no run is left: {', '.join(counts)}")
    return sorted(left, key=lambda run: -(figure(run, metric) or 0.0))


SMALLER = ("bytes_per_document", "latency_ms")


def _within(value: float | None, name: str, limit: float) -> bool:
    if value is None:
        return False
    return value <= limit if name in SMALLER else value >= limit


def scores(tracker: Tracker, run: Run) -> dict[str, np.ndarray]:
    """Every dev query's figures at a run's best validation.

    Raises:
        TrackingError: the run keeps none.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            return read_scores(Path(tracker.client.download_artifacts(run.info.run_id, SCORES, folder)))
        except (MlflowException, OSError) as error:
            raise TrackingError(
                f"run {run.info.run_name} ({run.info.run_id}): keeps no {SCORES}, which a comparison needs ({error})"
            ) from None


def compare(tracker: Tracker, a: Run, b: Run) -> Comparison:
    """Paired comparison of two runs on the dev queries that both have answered.

    Raises:
        TrackingError: they have no data set, no query or no level in common.
    """
    digests = [{known.dataset.digest for known in run.inputs.dataset_inputs} for run in (a, b)]
    if digests[0] != digests[1]:
        raise TrackingError(f"runs {a.info.run_name} and {b.info.run_name}: trained on different data sets")
    ours, theirs = aligned([scores(tracker, a), scores(tracker, b)])
    names = [name for name in ours if name.startswith(f"{METRIC}/level_") and name in theirs]
    if not names or not len(ours["query"]):
        raise TrackingError(f"runs {a.info.run_name} and {b.info.run_name}: no dev query or no level in common")
    return Comparison(
        len(ours["query"]),
        [_difference(int(name.rpartition("_")[2]), ours[name], theirs[name]) for name in sorted(names)],
        {
            name: (value, b.data.params.get(name, "-"))
            for name, value in a.data.params.items()
            if value != b.data.params.get(name)
        },
        ours[max(names)] - theirs[max(names)],
    )


def _difference(level: int, a: np.ndarray, b: np.ndarray) -> Difference:
    low, high = interval(a - b)
    return Difference(level, float(a.mean()), float(b.mean()), low, high, paired_p(a, b))


def export(tracker: Tracker, run: Run, target: Path) -> list[Path]:
    """Write a run to plain files: run.json, metrics.csv, reproduce.sh and all artifacts; the trials of a sweep beside.

    Returns:
        The folders written, the run's own first.
    """
    with write_aside(target) as aside:
        aside.mkdir()
        write_json(aside / "run.json", described(run))
        _write_history(tracker, run, aside / "metrics.csv")
        if "reproduce" in run.data.tags:
            (aside / "reproduce.sh").write_text(f"#!/bin/sh\n{run.data.tags['reproduce']}\n", encoding="utf-8")
        with tempfile.TemporaryDirectory() as scratch:
            if tracker.client.list_artifacts(run.info.run_id):
                kept = Path(tracker.client.download_artifacts(run.info.run_id, "", scratch))
                shutil.copytree(kept, aside / "artifacts")
    written = [target]
    for child in tracker.children(run.info.run_id):
        written += export(tracker, child, target / "trials" / child.info.run_id)
    return written


def described(run: Run) -> dict[str, Any]:
    """All that MLflow knows of a run but its files and the history of its figures."""
    data = {known.dataset.name: known.dataset.digest for known in run.inputs.dataset_inputs}
    own = {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.") or k.startswith("mlflow.source")}
    return {
        "run_id": run.info.run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "started": when(run),
        "seconds": None if run.info.end_time is None else (run.info.end_time - run.info.start_time) / 1000,
        "data": data,
        "tags": own,
        "params": run.data.params,
        "metrics": run.data.metrics,
        "artifacts": run.info.artifact_uri,
    }


def when(run: Run) -> str:
    """When a run started, in UTC, to the minute."""
    return datetime.fromtimestamp(run.info.start_time / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _write_history(tracker: Tracker, run: Run, path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["metric", "step", "value", "timestamp"])
        for name in sorted(run.data.metrics):
            for point in tracker.client.get_metric_history(run.info.run_id, name):
                writer.writerow([name, point.step, point.value, point.timestamp])


def settings_file(tracker: Tracker, run: Run, folder: Path) -> Path:
    """The run's whole configuration as a file that `retreever train FILE` takes, downloaded to `folder`."""
    return Path(tracker.client.download_artifacts(run.info.run_id, CONFIG, str(folder)))

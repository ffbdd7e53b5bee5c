"""Which run becomes the champion: named, or the best on dev within limits; let through by the gates of `gates.py`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from retreever.bundle.make_bundle import make_bundle
from retreever.errors import PromotionError, TrackingError
from retreever.evaluation.metrics import METRIC
from retreever.system.files import read_json
from retreever.system.progress import Track, silent
from retreever.system.workspace import Workspace
from retreever.tracking import promotion_gates, run_catalog
from retreever.tracking.model_registry import CHAMPION, MODEL, locate, register, version
from retreever.tracking.promotion_gates import LATENCY, Limits, Measured
from retreever.tracking.run_record import BYTES
from retreever.tracking.tracker import Tracker
from retreever.trained_tree import load_model

TRIED = 10
"""Candidates whose speed is measured, best first, where none is named."""


@dataclass(frozen=True)
class Promotion:
    """A version that an alias points at now.

    Attributes:
        uri: the version's own, `models:/retreever/3`.
        found: why it may, in words.
    """

    uri: str
    found: str


def promote_run(
    name: str,
    workspace: Workspace,
    *,
    alias: str = CHAMPION,
    limits: Limits | None = None,
    split: str = "test",
    force: bool = False,
    track: Track = silent,
) -> Promotion:
    """Promote a run, if it keeps the limits and is significantly better than what `alias` points at.

    A run that `alias` points at already is left as it is. One that has no bundle yet is indexed first.

    Args:
        name: of a run in the workspace, or a run's id or name in MLflow (a trial of a sweep, say).
        split: the queries on which candidate and champion meet.
        force: promote what is not significantly better, or serves other data. Limits hold all the same.

    Raises:
        TrackingError: there is no such run, or it has not been trained to its end.
        PromotionError: a limit is missed, or the champion is not beaten.
    """
    tracker = Tracker.of(workspace)
    bundle, run = _bundle(name, workspace, tracker, track)
    present = version(tracker, alias)
    if present is not None and present.run_id == run.info.run_id:
        return Promotion(f"models:/{MODEL}/{present.version}", f"it is models:/{MODEL}@{alias} already")
    config = load_model(bundle)[1]
    candidate = promotion_gates.measure(bundle, config, workspace, split, track)
    promotion_gates.refuse_beyond(limits or Limits(), candidate, name)
    found = _judged(name, candidate, present, workspace, split, force, track)
    notes = _notes(bundle, candidate, split, found, run)
    return Promotion(register(bundle, run.info.run_id, tracker, alias=alias, notes=notes), found)


def pick(
    workspace: Workspace,
    *,
    metric: str = METRIC,
    space: str | None = None,
    limits: Limits | None = None,
    track: Track = silent,
) -> str:
    """The id of the finished run with the largest dev `metric` among those that keep the limits.

    Recall (on dev) and size are asked of MLflow; speed is measured on one candidate after the other.

    Raises:
        TrackingError: no run is within the limits that MLflow can tell.
        PromotionError: none of the first candidates is fast enough.
    """
    tracker, asked = Tracker.of(workspace), limits or Limits()
    within = {k: v for k, v in (("recall_at_10", asked.recall), (BYTES, asked.bytes)) if v is not None}
    candidates = run_catalog.ranked(run_catalog.listed(tracker, workspace, space=space), metric, within)
    if asked.latency_ms is None:
        return str(candidates[0].info.run_id)
    slow: list[str] = []
    for run in candidates[:TRIED]:
        took = promotion_gates.latency(_bundle(run.info.run_id, workspace, tracker, track)[0], workspace)
        if took <= asked.latency_ms:
            return str(run.info.run_id)
        slow.append(f"{run.info.run_name} {took:.3g} ms")
    raise PromotionError(f"{LATENCY}: above --max-latency-ms {asked.latency_ms:g}: {', '.join(slow)}")


def _bundle(name: str, workspace: Workspace, tracker: Tracker, track: Track) -> tuple[Path, Run]:
    """A run's bundle, made where it is missing, and the run."""
    folder = workspace.runs / name
    if (folder / "run.json").is_file():
        run, bundle = tracker.run(read_json(folder / "run.json")["run_id"]), folder / "bundle"
    else:
        run = run_catalog.find(tracker, workspace, name)
        bundle = workspace.root / "bundles" / run.info.run_id / "bundle"  # MLflow keeps the last name
    if not bundle.is_dir():
        model = folder / "model" if (folder / "model").is_dir() else _model(tracker, run)
        make_bundle(model, bundle, workspace, track)
    return bundle, run


def _model(tracker: Tracker, run: Run) -> Path:
    """The model that a run keeps among its artifacts."""
    try:
        return Path(tracker.client.download_artifacts(run.info.run_id, "checkpoint"))
    except (MlflowException, OSError):
        raise TrackingError(
            f"run {run.info.run_name} ({run.info.run_id}): has not been trained to its end, it keeps no model"
        ) from None


def _judged(
    name: str,
    candidate: Measured,
    present: ModelVersion | None,
    workspace: Workspace,
    split: str,
    force: bool,
    track: Track,
) -> str:
    """Why a candidate may replace the present version, in words.

    Raises:
        PromotionError: it may not.
    """
    if present is None:
        return f"the first version; NDCG@10 {candidate.figures[METRIC]:.4f} on {split}"
    uri = f"models:/{MODEL}/{present.version}"
    bundle = locate(uri, workspace)
    served = load_model(bundle)[1].data.name
    if served != candidate.config.data.name:
        better, found = False, f"{uri} serves data set {served}, the candidate {candidate.config.data.name}"
    else:
        better, found = promotion_gates.beats(
            candidate, promotion_gates.measure(bundle, candidate.config, workspace, split, track)
        )
        found = f"against {uri} on {split}: {found}"
    if not better and not force:
        raise PromotionError(f"run {name}: not significantly better: {found}; --force promotes it all the same")
    return found if better else f"forced; {found}"


def _notes(bundle: Path, candidate: Measured, split: str, found: str, run: Run) -> dict[str, str]:
    """Tags of a version: its figures, where it comes from, how its index is made."""
    config, manifest, tags = candidate.config, read_json(bundle / "manifest.json"), run.data.tags
    recipe = config.index.model_dump(mode="json") | {
        "depth": config.tree.depth,
        "similarity": config.loss.similarity,
        "encoder": config.encoder.model_dump(mode="json"),
    }
    lineage = {
        "data": manifest["dataset"],
        "data_digest": manifest["dataset_digest"],
        "git_commit": tags.get("mlflow.source.git.commit", ""),
        "parent_run": tags.get("mlflow.parentRunId", ""),
        "reproduce": tags.get("reproduce", ""),
    }
    figures = dict(_figures(candidate, split))
    return {**figures, **lineage, "index": json.dumps(recipe), "gate": found}


def _figures(candidate: Measured, split: str) -> Iterator[tuple[str, str]]:
    for name, value in candidate.figures.items():
        yield (name if name in (BYTES, LATENCY) else f"{split}/{name}"), f"{value:.6g}"

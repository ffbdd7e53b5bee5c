"""Which run becomes the champion: a named run, or the best on dev within limits, if `promotion_gates.py` accepts it."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from retreever.bundle.make_bundle import make_bundle
from retreever.errors import PromotionError, TrackingError
from retreever.evaluation.metrics import METRIC
from retreever.system.files import read_json
from retreever.system.progress import Track, track_silently
from retreever.system.workspace import Workspace
from retreever.tracking import promotion_gates, run_catalog
from retreever.tracking.model_registry import (
    CHAMPION_ALIAS,
    REGISTERED_MODEL,
    find_version,
    locate_model,
    register_bundle,
)
from retreever.tracking.promotion_gates import GATE_LATENCY, BundleMeasurement, Limits
from retreever.tracking.run_record import BYTES_METRIC, RUN_RECORD
from retreever.tracking.tracker import Tracker
from retreever.trained_tree import load_model
from retreever.training.guard_set import GUARD_METRIC, describe_guards

MAX_TIMED_CANDIDATES = 10
"""How many candidates are timed, best first, when no run is named."""


@dataclasses.dataclass(frozen=True)
class Promotion:
    """A version that an alias points at now.

    Attributes:
        uri: the version's own, `models:/retreever/3`.
        finding: why the version was promoted, in words.
    """

    uri: str
    finding: str


def promote_run(
    name: str,
    workspace: Workspace,
    *,
    alias: str = CHAMPION_ALIAS,
    limits: Limits | None = None,
    split: str = "test",
    force: bool = False,
    track: Track = track_silently,
) -> Promotion:
    """Promote a run if it meets the limits and is significantly better than the version `alias` points at.

    On a corpus without judgements the first version needs no test, and a later one needs `force`. Nothing changes if
    `alias` points at the run already. A run without a bundle is indexed first.

    Args:
        name: of a run in the workspace, or a run's id or name in MLflow (for example, a trial of a sweep).
        split: the queries on which candidate and champion are compared.
        force: promote a run that is not significantly better, or serves other data. The limits still apply.

    Raises:
        TrackingError: there is no such run, or its training did not finish.
        PromotionError: the run misses a limit, or is not significantly better than the champion.
    """
    tracker = Tracker.of(workspace)
    bundle, run = _find_or_make_bundle(name, workspace, tracker, track)
    present = find_version(tracker, alias)
    if present is not None and present.run_id == run.info.run_id:
        return Promotion(
            f"models:/{REGISTERED_MODEL}/{present.version}", f"it is models:/{REGISTERED_MODEL}@{alias} already"
        )
    config = load_model(bundle)[1]
    measured = promotion_gates.measure_bundle(bundle, config, workspace, split, track)
    guards = promotion_gates.measure_guards(bundle, workspace, track)
    candidate = dataclasses.replace(measured, figures=measured.figures | guards)
    promotion_gates.check_limits(limits or Limits(), candidate, name)
    findings = [_check_against_champion(name, candidate, present, workspace, split, force, track)]
    finding = "; ".join(findings + ([describe_guards(guards)] if guards else []))
    tags = _version_tags(bundle, candidate, split, finding, run)
    return Promotion(register_bundle(bundle, run.info.run_id, tracker, alias=alias, tags=tags), finding)


def pick_run(
    workspace: Workspace,
    *,
    metric: str = METRIC,
    space: str | None = None,
    limits: Limits | None = None,
    track: Track = track_silently,
) -> str:
    """The id of the finished run with the largest dev `metric` among those that meet the limits.

    MLflow holds recall (on dev), size and the ratio on guard sets, where there are any; latency is measured, one
    candidate after the other.

    Raises:
        TrackingError: no run meets the limits on recall and size.
        PromotionError: none of these keeps enough on its guard sets, or none of the first candidates is fast enough.
    """
    tracker, limits = Tracker.of(workspace), limits or Limits()
    within = {k: v for k, v in (("recall_at_10", limits.recall), (BYTES_METRIC, limits.bytes)) if v is not None}
    ranked = run_catalog.rank_runs(run_catalog.list_runs(tracker, workspace, space=space), metric, within)
    candidates = [run for run in ranked if _read_guard_ratio(run) >= limits.guard]
    if not candidates:
        kept = ", ".join(f"{run.info.run_name} {_read_guard_ratio(run):.3g}" for run in ranked[:MAX_TIMED_CANDIDATES])
        raise PromotionError(f"{GUARD_METRIC}: below --min-guard {limits.guard:g}: {kept}")
    if limits.latency_ms is None:
        return str(candidates[0].info.run_id)
    slow: list[str] = []
    for run in candidates[:MAX_TIMED_CANDIDATES]:
        took = promotion_gates.measure_bundle_latency(
            _find_or_make_bundle(run.info.run_id, workspace, tracker, track)[0], workspace
        )
        if took <= limits.latency_ms:
            return str(run.info.run_id)
        slow.append(f"{run.info.run_name} {took:.3g} ms")
    raise PromotionError(f"{GATE_LATENCY}: above --max-latency-ms {limits.latency_ms:g}: {', '.join(slow)}")


def _read_guard_ratio(run: Run) -> float:
    """The smallest ratio on guard sets at a run's best validation; infinite without a guard set."""
    ratio = run_catalog.read_figure(run, GUARD_METRIC)
    return math.inf if ratio is None else ratio


def _find_or_make_bundle(name: str, workspace: Workspace, tracker: Tracker, track: Track) -> tuple[Path, Run]:
    """A run and its bundle, which is built if it is missing."""
    folder = workspace.runs / name
    if (folder / RUN_RECORD).is_file():
        run, bundle = tracker.get_run(read_json(folder / RUN_RECORD)["run_id"]), folder / "bundle"
    else:
        run = run_catalog.find_run(tracker, workspace, name)
        bundle = workspace.root / "bundles" / run.info.run_id / "bundle"  # MLflow keeps the folder's name
    if not bundle.is_dir():
        model = folder / "model" if (folder / "model").is_dir() else _download_model(tracker, run)
        make_bundle(model, bundle, workspace, track)
    return bundle, run


def _download_model(tracker: Tracker, run: Run) -> Path:
    """The model among a run's artifacts."""
    try:
        return Path(tracker.client.download_artifacts(run.info.run_id, "checkpoint"))
    except (MlflowException, OSError):
        raise TrackingError(
            f"run {run.info.run_name} ({run.info.run_id}): has no model; its training did not finish"
        ) from None


def _check_against_champion(
    name: str,
    candidate: BundleMeasurement,
    present: ModelVersion | None,
    workspace: Workspace,
    split: str,
    force: bool,
    track: Track,
) -> str:
    """Why a candidate may replace the present version, in words.

    Raises:
        PromotionError: the candidate may not replace it.
    """
    if present is None:
        judged = f"NDCG@10 {candidate.figures[METRIC]:.4f} on {split}" if len(candidate.scores) else "not judged"
        return f"the first version; {judged}"
    uri = f"models:/{REGISTERED_MODEL}/{present.version}"
    bundle = locate_model(uri, workspace)
    served = load_model(bundle)[1].data.name
    if served != candidate.config.data.name:
        better, finding = False, f"{uri} serves data set {served}, the candidate {candidate.config.data.name}"
    elif not len(candidate.scores):
        better, finding = False, f"{uri} and the candidate serve data set {served}, which has no judgements"
    else:
        better, finding = promotion_gates.compare_to_champion(
            candidate, promotion_gates.measure_bundle(bundle, candidate.config, workspace, split, track)
        )
        finding = f"against {uri} on {split}: {finding}"
    if not better and not force:
        raise PromotionError(f"run {name}: not significantly better: {finding}; --force promotes it all the same")
    return finding if better else f"forced; {finding}"


def _version_tags(bundle: Path, candidate: BundleMeasurement, split: str, finding: str, run: Run) -> dict[str, str]:
    """Tags of a version: its figures, its lineage and how its index was built."""
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
    return {**figures, **lineage, "index": json.dumps(recipe), "gate": finding}


def _figures(candidate: BundleMeasurement, split: str) -> Iterator[tuple[str, str]]:
    for name, value in candidate.figures.items():
        own_name = name in (BYTES_METRIC, GATE_LATENCY) or name.startswith("guard")
        yield (name if own_name else f"{split}/{name}"), f"{value:.6g}"

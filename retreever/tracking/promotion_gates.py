"""The gates of promotion: limits that a bundle must meet, and a paired test against the champion.

A candidate was picked on dev. Here it is compared once with the champion, on queries that chose neither of them. On the
guard sets of its configuration it is compared with the frozen encoder. On a corpus alone there is nothing to compare.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from retreever.bundle.make_bundle import open_guards
from retreever.bundle.retriever import Retreever
from retreever.config import MIN_GUARD_RATIO, Config
from retreever.data.dataset import DATASET_SPLITS
from retreever.encoding.encoding_store import open_encoded_dataset
from retreever.errors import PromotionError
from retreever.evaluation.latency import limit_to_one_thread, measure_query_latency
from retreever.evaluation.level_judgement import judge_levels, name_level_metric
from retreever.evaluation.metrics import METRIC, METRICS, group_judgements
from retreever.evaluation.significance import bootstrap_interval, paired_p_value
from retreever.system.progress import Track, track_silently
from retreever.system.workspace import Workspace
from retreever.tracking.run_record import BYTES_METRIC, index_bytes_per_document
from retreever.trained_tree import load_trained_tree, route_encodings
from retreever.training.guard_set import GuardSet, judge_guard_sets, list_guard_ratios
from retreever.training.hybrid_scores import HybridScores, read_hybrid_weights

PROMOTION_SIGNIFICANCE_LEVEL = 0.05
"""Two-sided p-value below which a candidate counts as better."""
GATE_LATENCY, LATENCY_QUERIES = "latency_ms", 50


@dataclass(frozen=True)
class Limits:
    """What a candidate must reach; None: no limit.

    Attributes:
        recall: lowest R@10 at the last level.
        bytes: largest document at the last level, in bytes.
        latency_ms: longest median search of one text, in milliseconds.
        guard: lowest NDCG@10 at the last level on every guard set, as a share of the frozen encoder's; 0: no limit.
    """

    recall: float | None = None
    bytes: float | None = None
    latency_ms: float | None = None
    guard: float = MIN_GUARD_RATIO


@dataclass(frozen=True)
class BundleMeasurement:
    """A bundle's figures on one split.

    Attributes:
        figures: means over queries by name and level, bytes a document, milliseconds a query; of a candidate, figures
            on guard sets. Without any judgement there are no means.
        scores: NDCG@10 of every query at the last level; none where the data set has no judgement.
    """

    config: Config
    figures: dict[str, float]
    scores: np.ndarray = field(repr=False)


def measure_bundle(
    bundle: Path, data_of: Config, workspace: Workspace, split: str, track: Track = track_silently
) -> BundleMeasurement:
    """Figures of a bundle on the queries of `split`, ranked as it is served, and its search latency.

    Args:
        data_of: the configuration whose data set is used, encoded by the bundle's own encoder.

    Raises:
        DataError: the data set has judgements, but no such split.
    """
    trained = load_trained_tree(bundle)
    tree, own = trained.tree, trained.config
    config = own.model_copy(update={"data": data_of.data})
    data = open_encoded_dataset(config, workspace, track)
    is_judged = any(map(data.dataset.has_pairs, DATASET_SPLITS))
    if is_judged:
        data.dataset.require_pairs(split, "promotion judges on it")
    figures = {
        BYTES_METRIC: float(index_bytes_per_document(config)),
        GATE_LATENCY: measure_bundle_latency(bundle, workspace),
    }
    if not is_judged:
        return BundleMeasurement(config, figures, np.empty(0))
    queries, relevant = group_judgements(data.dataset.qrels[split])
    q = np.concatenate(list(route_encodings(tree, config, data.queries, queries)))
    p = np.concatenate(list(route_encodings(tree, config, data.passages)))
    depth = tree.tree.depth
    added = None
    if own.train.goal == "hybrid":
        everything = np.arange(len(data.passages))
        added = HybridScores(config, data, queries, everything, read_hybrid_weights(trained)).add_to_level
    scores = judge_levels(q, p, relevant, depth, config.loss.similarity, added=added)
    figures |= {name: float(values.mean()) for name, values in scores.items()}
    figures |= {metric: figures[name_level_metric(metric, depth)] for metric in METRICS}
    return BundleMeasurement(config, figures, scores[name_level_metric(METRIC, depth)])


def measure_guards(bundle: Path, workspace: Workspace, track: Track = track_silently) -> dict[str, float]:
    """Figures of a bundle on the guard sets of its configuration, as at a validation; none without a guard set.

    A hybrid has the bundle's weights.

    Raises:
        DataError: a guard set cannot be read, or has nothing to be judged on.
    """
    trained = load_trained_tree(bundle)
    weights, guards = read_hybrid_weights(trained), open_guards(trained.config, workspace, track)
    sets = [GuardSet(name, guard, trained.config, weights=weights) for name, guard in guards.items()]
    return judge_guard_sets(sets, trained.tree)


def measure_bundle_latency(bundle: Path, workspace: Workspace) -> float:
    """Median milliseconds to search ten passages for one query text, on one thread, encoding included.

    In a corpus without queries its passages are the texts, cut to the length of a query.
    """
    retreever = Retreever.load(bundle, threads=1, exports=workspace.exports)
    dataset = open_encoded_dataset(retreever.config, workspace).dataset
    texts = (dataset.query_texts() or dataset.passage_texts())[:LATENCY_QUERIES]
    with limit_to_one_thread():
        return measure_query_latency(lambda text: retreever.search([text], k=10), texts).median


def check_limits(limits: Limits, found: BundleMeasurement, name: str) -> None:
    """Check a candidate against every limit.

    Raises:
        PromotionError: names every limit that the candidate misses.
    """
    min_recall, figures = limits.recall, found.figures
    missed = []
    if min_recall is not None and "recall_at_10" not in figures:
        missed.append(f"recall_at_10 is unknown without judgements, --min-recall is {min_recall:g}")
    elif min_recall is not None and figures["recall_at_10"] < min_recall:
        missed.append(f"recall_at_10 {figures['recall_at_10']:.4g} is below --min-recall {min_recall:g}")
    for figure, maximum, option in (
        (BYTES_METRIC, limits.bytes, "bytes"),
        (GATE_LATENCY, limits.latency_ms, "latency-ms"),
    ):
        if maximum is not None and figures[figure] > maximum:
            missed.append(f"{figure} {figures[figure]:.4g} is above --max-{option} {maximum:g}")
    for guard, ratio in list_guard_ratios(figures).items():
        if ratio < limits.guard:
            missed.append(
                f"guard set {guard}: {ratio:.4g} of the frozen encoder's NDCG@10 is below --min-guard {limits.guard:g}"
            )
    if missed:
        raise PromotionError(f"run {name}: {'; '.join(missed)}")


def compare_to_champion(candidate: BundleMeasurement, champion: BundleMeasurement) -> tuple[bool, str]:
    """Whether a candidate is significantly better than the champion on the same queries, and the finding in words."""
    difference = candidate.scores - champion.scores
    p, (low, high) = paired_p_value(candidate.scores, champion.scores), bootstrap_interval(difference)
    words = (
        f"NDCG@10 {candidate.scores.mean():.4f} against {champion.scores.mean():.4f}, difference "
        f"{difference.mean():+.4f} [{low:+.4f}, {high:+.4f}], p = {p:.2g}, {len(difference):,} queries"
    )
    return difference.mean() > 0 and p < PROMOTION_SIGNIFICANCE_LEVEL, words

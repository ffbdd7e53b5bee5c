"""Fits the relevance of hits to the judgements of dev (ours), and measures how well it is calibrated.

Each dev query searches the whole corpus. A passage that dev does not judge counts as not relevant, so relevance is what
the judgements of dev see. The regression is Platt's ("Probabilistic outputs for support vector machines", 1999), with
his smoothed targets; bounds on the coefficients keep it monotone.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize
from scipy.special import expit

from retreever.bundle.hybrid_weights import HybridWeights
from retreever.bundle.relevance import (
    COMPARED_HITS,
    CalibrationReport,
    HitRegression,
    LevelRelevance,
    Relevance,
    make_features,
)
from retreever.data.dataset import RetrievalDataset
from retreever.encoding.encoding_store import EncodedDataset
from retreever.index import Hybrid
from retreever.index.tree_index import TreeIndex
from retreever.model import default_levels
from retreever.system.progress import Track, track_silently
from retreever.trained_tree import TrainedTree, route_encodings

MIN_DEV_QUERIES, MAX_DEV_QUERIES = 20, 1_000  # fewer say too little; of more, some are drawn
FITTED_HITS = 50  # first hits of a query that are fitted
CALIBRATION_FOLDS, CALIBRATION_BINS = 5, 10
RELATIVE_SCALES = (0.5, 1.0, 2.0, 4.0, 8.0)  # of the softmax, over the mean spread of the first ten scores


def fit_relevance(
    trained: TrainedTree,
    data: EncodedDataset,
    index: TreeIndex,
    weights: HybridWeights | None = None,
    track: Track = track_silently,
    seed: int = 0,
) -> Relevance | None:
    """Fit the relevance of every reported level that the index can search; None with fewer than 20 dev queries.

    Args:
        index: of the whole corpus, in its order.
        weights: fit the hits of hybrid searches with these weights, too.
        seed: draws at most 1,000 dev queries, and the folds of the cross-validation.
    """
    queries = draw_judged_queries(data.dataset, "dev", seed)
    if len(queries) < MIN_DEV_QUERIES:
        return None
    nodes = np.concatenate(list(route_encodings(trained.tree, trained.config, data.queries, queries)))
    depth = trained.layout.depth
    hybrid = None if weights is None else make_dataset_hybrid(data, queries, weights)

    def fit_level(level: int, hybrid: Hybrid | None) -> LevelRelevance:
        numbers, scores = index.search(nodes, FITTED_HITS, level, hybrid=hybrid)
        return fit_level_relevance(scores, _find_relevant(data.dataset, queries, numbers), seed)

    fitted, fused = {}, {}
    for level in track((depth,) if trained.layout.compact else default_levels(depth), "fitting relevance, levels"):
        fitted[level] = fit_level(level, None)
        if hybrid is not None:
            fused[level] = fit_level(level, hybrid)
    return Relevance(fitted, fused)


def make_dataset_hybrid(data: EncodedDataset, queries: Int[np.ndarray, " queries"], weights: HybridWeights) -> Hybrid:
    """What a hybrid search for some queries of a data set adds to similarities."""
    texts = [data.dataset.queries[row].text for row in queries.tolist()]
    encodings = np.array(data.queries.frozen_part[queries]) if weights.encodings else None
    return Hybrid(texts, weights.words, encodings, weights.encodings)


def summarize_relevance(relevance: Relevance | None) -> dict[str, Any]:
    """Calibration errors by level, as they stand beside the statistics of an index; None where nothing was fitted."""
    reports = {} if relevance is None else relevance.reports
    return {
        f"relevance_{name}": {d: round(getattr(report, name), 4) for d, report in reports.items()} or None
        for name in ("calibration_error", "first_hit_calibration_error")
    }


def draw_judged_queries(dataset: RetrievalDataset, split: str, seed: int) -> Int[np.ndarray, " queries"]:
    """Rows of at most 1,000 queries with a passage that a split judges relevant, in ascending order."""
    queries = np.unique(dataset.pairs(split)[:, 0]) if split in dataset.qrels else np.empty(0, np.int64)
    return np.sort(np.random.default_rng(seed).permutation(queries)[:MAX_DEV_QUERIES])


def _find_relevant(
    dataset: RetrievalDataset, queries: Int[np.ndarray, " queries"], numbers: Int[np.ndarray, "queries hits"]
) -> Bool[np.ndarray, "queries hits"]:
    pairs, passages = dataset.pairs("dev"), len(dataset.corpus)
    return np.isin(queries[:, None] * passages + numbers, pairs[:, 0] * passages + pairs[:, 1])


def fit_level_relevance(
    scores: Float[np.ndarray, "queries hits"], relevant: Bool[np.ndarray, "queries hits"], seed: int = 0
) -> LevelRelevance:
    """Fit the relevance of one level, and measure its calibration on queries that it was not fitted to.

    Args:
        scores: of the hits of each query, best first.
        relevant: whether a hit is relevant.
        seed: draws the folds.
    """
    folds = np.random.default_rng(seed).permutation(len(scores)) % CALIBRATION_FOLDS
    predicted = np.zeros(scores.shape)
    for fold in range(CALIBRATION_FOLDS):
        held = folds == fold
        predicted[held] = _fit_regression(scores[~held], relevant[~held]).predict(scores[held])
    report = CalibrationReport(
        queries=len(scores),
        calibration_error=measure_calibration_error(predicted[:, :COMPARED_HITS], relevant[:, :COMPARED_HITS]),
        first_hit_calibration_error=measure_calibration_error(predicted[:, :1], relevant[:, :1]),
    )
    return LevelRelevance(**_fit_regression(scores, relevant).model_dump(), report=report)


def measure_calibration_error(predicted: Float[np.ndarray, "..."], found: Bool[np.ndarray, "..."]) -> float:
    """Expected calibration error: the mean distance, over ten bins of equal size, of what was predicted and found.

    >>> measure_calibration_error(np.full(20, 0.5), np.arange(20) % 2 == 0)
    0.0
    """
    order = np.argsort(predicted, axis=None, kind="stable")
    bins = np.array_split(np.stack([predicted.ravel()[order], found.ravel()[order]]), CALIBRATION_BINS, axis=1)
    distances = [abs(part[0].sum() - part[1].sum()) for part in bins]
    return float(np.sum(distances) / max(1, len(order)))


def _fit_regression(
    scores: Float[np.ndarray, "queries hits"], relevant: Bool[np.ndarray, "queries hits"]
) -> HitRegression:
    """Fit with every scale of the softmax; keep the one with the least log-loss."""
    spread = float(np.mean(scores[:, 0] - scores[:, :COMPARED_HITS][:, -1])) or 1.0
    best: tuple[float, float, np.ndarray] | None = None
    for relative in RELATIVE_SCALES:
        loss, weights = _minimize_log_loss(make_features(scores, relative / spread), relevant)
        if best is None or loss < best[0]:
            best = loss, relative / spread, weights
    assert best is not None
    _, scale, (score, share, log_rank, constant) = best
    return HitRegression(scale=scale, score=score, share=share, log_rank=log_rank, constant=constant)


def _minimize_log_loss(
    features: Float[np.ndarray, "queries hits 3"], relevant: Bool[np.ndarray, "queries hits"]
) -> tuple[float, Float[np.ndarray, " 4"]]:
    """Return the least log-loss, and the coefficients of the features followed by the constant."""
    rows = features.reshape(-1, features.shape[-1])
    mean, deviation = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-12)
    inputs = np.column_stack([(rows - mean) / deviation, np.ones(len(rows))])
    count = int(relevant.sum())
    targets = np.where(relevant.ravel(), (count + 1) / (count + 2), 1 / (len(rows) - count + 2))

    def evaluate(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = inputs @ weights
        loss = np.mean(np.logaddexp(0, logits) - targets * logits)
        return float(loss), inputs.T @ (expit(logits) - targets) / len(rows)

    start = np.array([0.0, 0.0, 0.0, np.log((count + 1) / (len(rows) - count + 1))])
    bounds = [(0, None), (0, None), (None, 0), (None, None)]
    found = minimize(evaluate, start, jac=True, method="L-BFGS-B", bounds=bounds)
    slopes = found.x[:-1] / deviation
    return float(found.fun), np.append(slopes, found.x[-1] - slopes @ mean)

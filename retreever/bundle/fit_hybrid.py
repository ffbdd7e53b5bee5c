"""Chooses the weights of a hybrid search by NDCG@10 at the last level, on dev and on guard sets (ours).

Dev knows the training's domain alone, and there the tree needs its companions least. So of all weights that dev does
not tell from its best, by the rule of one standard error (Breiman and others, 1984), those are taken that do best on
guard sets; without any, those that lean most on what was not trained: the frozen encoder, then words.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from retreever.bundle.build_index import build_index
from retreever.bundle.fit_relevance import MIN_DEV_QUERIES, draw_judged_queries, make_dataset_hybrid
from retreever.bundle.hybrid_weights import HybridWeights, WeightCurve
from retreever.encoding.encoding_store import EncodedDataset
from retreever.evaluation.metrics import METRIC, evaluate_per_query, group_judgements
from retreever.index.tree_index import TreeIndex
from retreever.system.progress import Track, track_silently
from retreever.trained_tree import TrainedTree, route_encodings

TRIED_WORDS = ((0.0, 0.0), *((weight, 0.0) for weight in (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)))
TRIED_WITH_ENCODINGS = ((0.0, 0.0), *product((1.0, 2.0, 3.0, 4.0, 6.0), (0.0, 0.3, 0.6, 1.0)))


def fit_hybrid(
    trained: TrainedTree,
    data: EncodedDataset,
    index: TreeIndex,
    guards: Mapping[str, EncodedDataset] | None = None,
    track: Track = track_silently,
    seed: int = 0,
) -> HybridWeights | None:
    """Choose the weights; None with fewer than 20 dev queries, or where the index has no words.

    Args:
        index: of the whole corpus, in its order.
        guards: data that was not trained on, by name; judged on test, else on dev.
        seed: draws at most 1,000 queries of each set.
    """
    queries = draw_judged_queries(data.dataset, "dev", seed)
    if len(queries) < MIN_DEV_QUERIES or not index.has_words:
        return None
    tried = TRIED_WITH_ENCODINGS if index.layout.encoding_dim else TRIED_WORDS
    figures = _judge_weights(trained, data, "dev", queries, index, tried, track)
    guarded = {
        name: _judge_guard(trained, guard, tried, track, f"{name}: ", seed) for name, guard in (guards or {}).items()
    }
    means = [own.mean(axis=1) for own in guarded.values()]
    words, encodings = tried[pick_weights(figures, means, tried)]
    curve = WeightCurve(
        queries=len(queries),
        weights=tuple(pair[0] for pair in tried),
        encoding_weights=tuple(pair[1] for pair in tried) if index.layout.encoding_dim else (),
        ndcg_at_10=_round_means(figures),
        guards={name: _round_means(own) for name, own in guarded.items()},
    )
    return HybridWeights(words, encodings, curve)


def pick_weights(
    dev: Float[np.ndarray, "tried queries"],
    guards: Sequence[Float[np.ndarray, " tried"]],
    tried: Sequence[tuple[float, float]],
) -> int:
    """The number of the weights to take, by NDCG@10 of every dev query, and the mean on every guard set."""
    lost = dev[dev.mean(axis=1).argmax()] - dev
    errors = lost.std(axis=1, ddof=1) / np.sqrt(lost.shape[1])
    kept = np.flatnonzero(lost.mean(axis=1) <= errors).tolist()
    if guards:
        return int(max(kept, key=lambda i: sum(own[i] / (max(own) or 1.0) for own in guards)))
    return int(max(kept, key=lambda i: (tried[i][1], tried[i][0])))


def _round_means(figures: Float[np.ndarray, "tried queries"]) -> tuple[float, ...]:
    return tuple(figures.mean(axis=1).round(4).tolist())


def _judge_weights(
    trained: TrainedTree,
    data: EncodedDataset,
    split: str,
    queries: Int[np.ndarray, " queries"],
    index: TreeIndex,
    tried: Sequence[tuple[float, float]],
    track: Track,
    label: str = "",
) -> Float[np.ndarray, "tried queries"]:
    """NDCG@10 of every query with each of the weights."""
    nodes = np.concatenate(list(route_encodings(trained.tree, trained.config, data.queries, queries)))
    judged, relevant = group_judgements(data.dataset.qrels[split])
    wanted = [relevant[place] for place in np.searchsorted(judged, queries).tolist()]
    figures = []
    for words, encodings in track(tried, f"{label}choosing weights of the hybrid"):
        hybrid = make_dataset_hybrid(data, queries, HybridWeights(words, encodings))
        numbers, _ = index.search(nodes, 10, trained.layout.depth, hybrid=hybrid)
        figures.append(evaluate_per_query(numbers, wanted)[METRIC])
    return np.array(figures)


def _judge_guard(
    trained: TrainedTree,
    data: EncodedDataset,
    tried: Sequence[tuple[float, float]],
    track: Track,
    label: str,
    seed: int,
) -> Float[np.ndarray, "tried queries"]:
    split = "test" if data.dataset.has_pairs("test") else "dev"
    queries = draw_judged_queries(data.dataset, split, seed)
    return _judge_weights(trained, data, split, queries, build_index(trained, data, track), tried, track, label)


def summarize_hybrid(hybrid: HybridWeights | None) -> dict[str, Any]:
    """The weights, and what dev says of them, as they stand beside the statistics of an index; None without them."""
    if hybrid is None or hybrid.curve is None:
        return {"hybrid_weight": None, "hybrid_encoding_weight": None, "hybrid_dev_ndcg_at_10": None}
    curve = hybrid.curve
    pairs = list(zip(curve.weights, curve.encoding_weights or [0.0] * len(curve.weights), strict=True))
    figure = curve.ndcg_at_10[pairs.index((hybrid.words, hybrid.encodings))]
    return {
        "hybrid_weight": hybrid.words,
        "hybrid_encoding_weight": hybrid.encodings,
        "hybrid_dev_ndcg_at_10": figure,
    }

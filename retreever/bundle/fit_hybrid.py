"""Chooses the weight of words in a hybrid search by NDCG@10 on dev, at the last level (ours)."""

from typing import Any

import numpy as np

from retreever.bundle.fit_relevance import MIN_DEV_QUERIES, draw_dev_queries
from retreever.bundle.hybrid_weight import HybridWeight, WeightCurve
from retreever.encoding.encoding_store import EncodedDataset
from retreever.evaluation.metrics import METRIC, evaluate_rankings, group_judgements
from retreever.index import Hybrid
from retreever.index.tree_index import TreeIndex
from retreever.system.progress import Track, track_silently
from retreever.trained_tree import TrainedTree, route_encodings

TRIED_WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def fit_hybrid(
    trained: TrainedTree, data: EncodedDataset, index: TreeIndex, track: Track = track_silently, seed: int = 0
) -> HybridWeight | None:
    """Choose the weight; None with fewer than 20 dev queries, or where the index has no words.

    Args:
        index: of the whole corpus, in its order.
        seed: draws at most 1,000 dev queries.
    """
    queries = draw_dev_queries(data.dataset, seed)
    if len(queries) < MIN_DEV_QUERIES or not index.has_words:
        return None
    nodes = np.concatenate(list(route_encodings(trained.tree, trained.config, data.queries, queries)))
    texts = data.dataset.query_texts()
    own = [texts[row] for row in queries.tolist()]
    judged, relevant = group_judgements(data.dataset.qrels["dev"])
    wanted = [relevant[place] for place in np.searchsorted(judged, queries).tolist()]
    figures = []
    for weight in track(TRIED_WEIGHTS, "choosing the weight of words"):
        numbers, _ = index.search(nodes, 10, trained.layout.depth, hybrid=Hybrid(own, weight))
        figures.append(round(evaluate_rankings(numbers, wanted)[METRIC], 4))
    best = int(np.argmax(figures))
    curve = WeightCurve(queries=len(queries), weights=TRIED_WEIGHTS, ndcg_at_10=tuple(figures))
    return HybridWeight(TRIED_WEIGHTS[best], curve)


def summarize_hybrid(hybrid: HybridWeight | None) -> dict[str, Any]:
    """The weight, and what dev says of it, as they stand beside the statistics of an index; None without it."""
    if hybrid is None:
        return {"hybrid_weight": None, "hybrid_dev_ndcg_at_10": None}
    return {"hybrid_weight": hybrid.weight, "hybrid_dev_ndcg_at_10": max(hybrid.curve.ndcg_at_10)}

"""Metrics of every reported level of a tree: ranks the passages by each level, scores every query.

Knows node probabilities alone. The caller routes the texts and decides which worker ranks which queries.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from retreever.evaluation.metrics import METRICS, RelevantPassages, evaluate_per_query
from retreever.evaluation.ranking import AddedToScores, SimilarityName, rank_sums, top_k
from retreever.model import Tree, default_levels


def name_level_metric(metric: str, level: int) -> str:
    """Return the name under which a metric of a level is logged.

    >>> name_level_metric("ndcg_at_10", 6)
    'ndcg_at_10/level_06'
    """
    return f"{metric}/level_{level:02d}"


def judge_levels(
    queries: Float[np.ndarray, "queries nodes"],
    passages: Float[np.ndarray, "passages nodes"],
    relevant: RelevantPassages,
    depth: int,
    similarity: SimilarityName,
    gather: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
    added: Callable[[int, np.ndarray], AddedToScores] | None = None,
) -> dict[str, Float[np.ndarray, " judged"]]:
    """Compute every metric at every reported level: one value per judged query, keyed by `name_level_metric`.

    Args:
        queries, passages: probabilities of all nodes of a tree of that depth, in heap order.
        relevant: for every judged query its relevant passage rows and their grades.
        gather: turns the rankings of this worker's queries into those of all judged queries; by default the
            worker ranks them all.
        added: makes what is added to the similarities of a level, from the level and the passages' probabilities there;
            None: nothing is.
    """
    found: dict[str, np.ndarray] = {}
    for level in default_levels(depth):
        nodes = Tree(depth).level(level)
        own = passages[:, nodes]
        extra = None if added is None else added(level, own)
        values = judge_vectors(queries[:, nodes], own, relevant, similarity, gather, extra)
        found |= {name_level_metric(metric, level): values[metric] for metric in METRICS}
    return found


def judge_vectors(
    queries: Float[np.ndarray, "queries dim"],
    passages: Float[np.ndarray, "passages dim"],
    relevant: RelevantPassages,
    similarity: SimilarityName,
    gather: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
    added: AddedToScores | None = None,
) -> dict[str, Float[np.ndarray, " judged"]]:
    """Rank the passages by one vector a text; compute every metric, one value per judged query.

    Args:
        relevant, gather: as in `judge_levels`.
        added: what is added to the similarities of a slice of the queries to all passages; None: nothing is.
    """
    own, ranked, k = np.ascontiguousarray(queries), np.ascontiguousarray(passages), min(100, len(passages))
    rows, _ = top_k(own, ranked, k, similarity) if added is None else rank_sums(own, ranked, k, similarity, added)
    return evaluate_per_query(gather(rows), relevant)

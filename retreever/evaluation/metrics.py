"""Metrics of a ranking: NDCG@10, recall at 10 and at 100, reciprocal rank at 10.

Relevance is graded: a judgement of 1 or more counts, and NDCG uses the grade itself as gain. Knows rows, but no ids
and no models. Callers order ties before they pass a ranking.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

METRICS = ("ndcg_at_10", "recall_at_10", "recall_at_100", "mrr_at_10")
METRIC = "ndcg_at_10"
"""The metric that models are ranked by unless a setting names another: at the last level, on dev."""
DISCOUNTS = 1 / np.log2(np.arange(2, 12))
"""Weight of a gain at each of the first ten ranks (Järvelin and Kekäläinen 2002)."""
RelevantPassages = Sequence[tuple[np.ndarray, np.ndarray]]


def group_judgements(qrels: Int[np.ndarray, "judgements 3"]) -> tuple[Int[np.ndarray, " queries"], RelevantPassages]:
    """Group judgements (query, passage, score) by query: sorted query rows; for each, passage rows and grades.

    A score of 0 or less means not relevant; a query without a relevant passage is not listed.

    >>> queries, relevant = group_judgements(np.array([[7, 1, 2], [3, 5, 1], [7, 0, 1], [7, 4, 0]]))
    >>> queries.tolist(), [(rows.tolist(), grades.tolist()) for rows, grades in relevant]
    ([3, 7], [([5], [1]), ([0, 1], [1, 2])])
    """
    positive = qrels[qrels[:, 2] > 0]
    positive = positive[np.lexsort((positive[:, 1], positive[:, 0]))]
    queries, starts = np.unique(positive[:, 0], return_index=True)
    return queries, [(part[:, 1], part[:, 2]) for part in np.split(positive, starts[1:]) if len(part)]


def evaluate_rankings(rows: Int[np.ndarray, "queries k"], relevant: RelevantPassages) -> dict[str, float]:
    """Compute each metric in `METRICS` as a mean over queries, in [0, 1].

    Args:
        rows: passage rows in ranked order; with fewer than 100 columns, recall_at_100 is the recall within
            those columns.
        relevant: for every query its relevant passage rows and their grades.

    >>> evaluate_rankings(np.array([[4, 2, 9]]), [(np.array([2]), np.array([1]))])["mrr_at_10"]
    0.5
    """
    return {name: float(values.mean()) for name, values in evaluate_per_query(rows, relevant).items()}


def evaluate_per_query(
    rows: Int[np.ndarray, "queries k"], relevant: RelevantPassages
) -> dict[str, Float[np.ndarray, " queries"]]:
    """Compute the metrics of `evaluate_rankings` with one value per query, for significance tests.

    Raises:
        ValueError: the numbers of rankings and of judged queries differ, or both are 0.
    """
    if len(rows) != len(relevant) or not len(rows):
        raise ValueError(f"rows: {len(rows)} rankings for {len(relevant)} judged queries; must be equal and above 0")
    gains = _look_up_grades(rows, relevant)
    sizes = np.array([len(judged) for judged, _ in relevant])
    found, top = gains > 0, gains[:, :10]
    first = np.argmax(top > 0, axis=1)
    return {
        "ndcg_at_10": top @ DISCOUNTS[: top.shape[1]] / _compute_ideal_gains(relevant),
        "recall_at_10": found[:, :10].sum(axis=1) / sizes,
        "recall_at_100": found[:, :100].sum(axis=1) / sizes,
        "mrr_at_10": np.where(found[:, :10].any(axis=1), 1 / (first + 1), 0.0),
    }


def _look_up_grades(rows: np.ndarray, relevant: RelevantPassages) -> Float[np.ndarray, "queries k"]:
    """Grade of every ranked passage, 0 where it is not relevant; a row below 0 means that no passage was found."""
    query = np.repeat(np.arange(len(relevant)), [len(judged) for judged, _ in relevant])
    passages = np.concatenate([judged for judged, _ in relevant])
    grades = np.concatenate([grades for _, grades in relevant])
    width = int(max(rows.max(), passages.max())) + 1
    keys = query * width + passages  # one number per pair of query and passage
    order = np.argsort(keys)
    ranked = np.arange(len(rows))[:, None] * width + rows
    place = order[np.searchsorted(keys, ranked, sorter=order).clip(max=len(keys) - 1)]
    return np.where((keys[place] == ranked) & (rows >= 0), grades[place], 0).astype(np.float64)


def _compute_ideal_gains(relevant: RelevantPassages) -> Float[np.ndarray, " queries"]:
    """Discounted gain of the best possible ranking of ten passages."""
    best = [np.sort(grades)[::-1][:10] for _, grades in relevant]
    return np.array([grades @ DISCOUNTS[: len(grades)] for grades in best])

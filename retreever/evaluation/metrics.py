"""How good is a ranking? NDCG@10, recall and reciprocal rank, computed by ranx.

Relevance is graded: a judgement of 1 or more counts, NDCG uses the grade itself as gain. Knows rows only, no
ids and no models. A ranking that ties has been ordered before it comes here.
"""

import os
import tempfile
import threading
from collections.abc import Sequence
from types import ModuleType

import numba
import numpy as np
from jaxtyping import Float, Int

NAMES = {
    "ndcg_at_10": "ndcg@10",
    "recall_at_10": "recall@10",
    "recall_at_100": "recall@100",
    "mrr_at_10": "mrr@10",
}
METRICS = tuple(NAMES)
METRIC = "ndcg_at_10"
"""The figure that models are ranked by, unless told otherwise: at the last level, on dev."""
Relevant = Sequence[tuple[np.ndarray, np.ndarray]]
_LOCK = threading.Lock()  # ranx's kernels run on numba's workqueue, which one thread at a time may enter


def relevance(qrels: Int[np.ndarray, "judgements 3"]) -> tuple[Int[np.ndarray, " queries"], Relevant]:
    """Judgements (query, passage, score) by query: sorted query rows; for each, passage rows and grades.

    Scores of 0 or less are no relevance; a query left without any is not listed.

    >>> queries, relevant = relevance(np.array([[7, 1, 2], [3, 5, 1], [7, 0, 1], [7, 4, 0]]))
    >>> queries.tolist(), [(rows.tolist(), grades.tolist()) for rows, grades in relevant]
    ([3, 7], [([5], [1]), ([0, 1], [1, 2])])
    """
    kept = qrels[qrels[:, 2] > 0]
    kept = kept[np.lexsort((kept[:, 1], kept[:, 0]))]
    queries, starts = np.unique(kept[:, 0], return_index=True)
    return queries, [(part[:, 1], part[:, 2]) for part in np.split(kept, starts[1:]) if len(part)]


def evaluate(rows: Int[np.ndarray, "queries k"], relevant: Relevant) -> dict[str, float]:
    """Mean over queries of each metric in `NAMES`, each in [0, 1].

    Args:
        rows: passage rows in ranked order; with fewer than 100 columns recall@100 is the recall of what is
            there.
        relevant: for every query its relevant passage rows and their grades.

    >>> evaluate(np.array([[4, 2, 9]]), [(np.array([2]), np.array([1]))])["mrr_at_10"]
    0.5
    """
    return {name: float(values.mean()) for name, values in per_query(rows, relevant).items()}


def per_query(rows: Int[np.ndarray, "queries k"], relevant: Relevant) -> dict[str, Float[np.ndarray, " queries"]]:
    """The metrics of `evaluate`, one value a query, for significance tests.

    Raises:
        ValueError: not as many rankings as judged queries, or none at all.
    """
    if len(rows) != len(relevant) or not len(rows):
        raise ValueError(f"rows: {len(rows)} rankings for {len(relevant)} judged queries; must be equal and above 0")
    run = np.stack([rows, np.broadcast_to(-np.arange(rows.shape[1]), rows.shape)], axis=2).astype(np.float64)
    with _LOCK:
        ranx, threads = ranx_module(), numba.get_num_threads()
        try:
            # one thread: milliseconds of work, and ranx leaves numba at the number it is told
            found = ranx.evaluate(_judged(relevant), run, list(NAMES.values()), return_mean=False, threads=1)
        finally:
            numba.set_num_threads(threads)
    return {name: np.asarray(found[theirs]) for name, theirs in NAMES.items()}


def _judged(relevant: Relevant) -> Float[np.ndarray, "queries most 2"]:
    """Passage row and grade, best grade first as the ideal ranking wants; padded with row -1."""
    sizes = np.array([len(rows) for rows, _ in relevant])
    grades = np.concatenate([grades for _, grades in relevant])
    query = np.repeat(np.arange(len(relevant)), sizes)
    order = np.lexsort((-grades, query))
    column = np.arange(len(query)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    judged = np.full((len(relevant), max(1, sizes.max()), 2), -1.0)
    judged[query, column, 0] = np.concatenate([rows for rows, _ in relevant])[order]
    judged[query, column, 1] = grades[order]
    return judged


def ranx_module() -> ModuleType:
    """ranx, kept from making folders: importing it imports ir_datasets, which fills its home at once."""
    home = os.environ.get("IR_DATASETS_HOME")
    with tempfile.TemporaryDirectory() as aside:
        os.environ["IR_DATASETS_HOME"] = aside
        try:
            import ranx
        finally:
            if home is None:
                del os.environ["IR_DATASETS_HOME"]
            else:
                os.environ["IR_DATASETS_HOME"] = home
    return ranx

"""May a bundle become the champion? What it must reach, and whether it is really better than the one that serves.

A candidate is picked on dev; here it meets the present champion once, on queries that neither was chosen by.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from retreever.bundle.retriever import Retreever
from retreever.config import Config
from retreever.encoding.encoding_store import open_dataset
from retreever.errors import DataError, PromotionError
from retreever.evaluation.metrics import METRIC, per_query, relevance
from retreever.evaluation.ranking import top_k
from retreever.evaluation.significance import interval, paired_p
from retreever.model import default_levels
from retreever.system.progress import Track, silent
from retreever.system.workspace import Workspace
from retreever.tracking.run_record import BYTES, bytes_per_document
from retreever.trained_tree import load_model, routed

SURE = 0.05
"""Two-sided p below which a candidate counts as better."""
LATENCY, TIMED, WARM = "latency_ms", 50, 5


@dataclass(frozen=True)
class Limits:
    """What a candidate must reach; None: not asked for.

    Attributes:
        recall: R@10 at the last level, at least.
        bytes: a document at the last level, at most.
        latency_ms: median search of one text, at most.
    """

    recall: float | None = None
    bytes: float | None = None
    latency_ms: float | None = None


@dataclass(frozen=True)
class Measured:
    """A bundle's figures on one split.

    Attributes:
        figures: means over queries by name and level, bytes a document, milliseconds a query.
        scores: NDCG@10 of every query at the last level.
    """

    config: Config
    figures: dict[str, float]
    scores: np.ndarray = field(repr=False)


def measure(bundle: Path, data_of: Config, workspace: Workspace, split: str, track: Track = silent) -> Measured:
    """Figures of a bundle's tree on the queries of `split`, exhaustively ranked, and how long its search takes.

    Args:
        data_of: the configuration whose data set is asked, read by the bundle's own encoder.

    Raises:
        DataError: the data set has no such split.
    """
    tree, own = load_model(bundle)
    config = own.model_copy(update={"data": data_of.data})
    data = open_dataset(config, workspace, track)
    queries, relevant = relevance(data.dataset.qrels.get(split, np.empty((0, 3), np.int64)))
    if not len(queries):
        raise DataError(f"data set {data.dataset.name}: qrels/{split}.tsv is missing or empty")
    q = np.concatenate(list(routed(tree, config, data.queries, queries)))
    p = np.concatenate(list(routed(tree, config, data.passages)))
    figures: dict[str, float] = {}
    for level in default_levels(tree.tree.depth):
        nodes = tree.tree.level(level)
        rows, _ = top_k(q[:, nodes], p[:, nodes], 100, config.loss.similarity)
        found = per_query(rows, relevant)
        figures |= {f"{name}/level_{level:02d}": float(values.mean()) for name, values in found.items()}
    figures |= {name: float(values.mean()) for name, values in found.items()}
    figures |= {BYTES: float(bytes_per_document(config)), LATENCY: latency(bundle, workspace)}
    return Measured(config, figures, found[METRIC])


def latency(bundle: Path, workspace: Workspace) -> float:
    """Median milliseconds from one of its data set's texts to its ten passages, on one thread, encoding included."""
    threads, retreever = torch.get_num_threads(), Retreever.load(bundle)
    queries = open_dataset(retreever.config, workspace).dataset.queries
    texts = [query.text for query in queries[: TIMED + WARM]]
    torch.set_num_threads(1)
    try:
        seconds = []
        for text in texts:
            begun = time.perf_counter()
            retreever.search([text], k=10)
            seconds.append(time.perf_counter() - begun)
    finally:
        torch.set_num_threads(threads)
    return 1000 * float(np.median(seconds[WARM:] or seconds))


def refuse_beyond(limits: Limits, found: Measured, name: str) -> None:
    """Raise where a candidate is beyond a limit.

    Raises:
        PromotionError: with every limit that it misses.
    """
    floor, figures = limits.recall, found.figures
    missed = []
    if floor is not None and figures["recall_at_10"] < floor:
        missed.append(f"recall_at_10 {figures['recall_at_10']:.4g} is below --min-recall {floor:g}")
    for figure, ceiling, option in ((BYTES, limits.bytes, "bytes"), (LATENCY, limits.latency_ms, "latency-ms")):
        if ceiling is not None and figures[figure] > ceiling:
            missed.append(f"{figure} {figures[figure]:.4g} is above --max-{option} {ceiling:g}")
    if missed:
        raise PromotionError(f"run {name}: {'; '.join(missed)}")


def beats(candidate: Measured, champion: Measured) -> tuple[bool, str]:
    """Whether a candidate is significantly better than the champion on the same queries, and the finding in words."""
    difference = candidate.scores - champion.scores
    p, (low, high) = paired_p(candidate.scores, champion.scores), interval(difference)
    words = (
        f"NDCG@10 {candidate.scores.mean():.4f} against {champion.scores.mean():.4f}, difference "
        f"{difference.mean():+.4f} [{low:+.4f}, {high:+.4f}], p = {p:.2g}, {len(difference):,} queries"
    )
    return difference.mean() > 0 and p < SURE, words

"""How good is the tree now? Dev figures per level, routing health, and how far positives stand from negatives.

The protocol is fixed by the configuration: dev queries and ranked passages are drawn once, the same whatever the
seed of a run. Workers share the forward passes; the ranking is done by each for its share of the queries.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset, Encodings
from retreever.errors import DataError
from retreever.evaluation import metrics as measures
from retreever.evaluation.metrics import METRICS
from retreever.evaluation.ranking import top_k
from retreever.model import RoutingTree, default_levels, health, similarity
from retreever.system.files import write_aside
from retreever.trained_tree import routed
from retreever.training import distributed

SCORES = "query_scores.csv"
"""Where a run keeps every dev query's figures at its best validation, for paired tests between runs."""


@dataclass(frozen=True)
class Outcome:
    """Figures by name, the failure signatures found, and the figures of every single query by name and level."""

    metrics: dict[str, float]
    warnings: list[str]
    scores: dict[str, np.ndarray]


class Validation:
    """The fixed questions of a training; `run` asks them of a tree.

    Raises:
        DataError: the data set has no dev pairs.
    """

    def __init__(self, config: Config, data: EncodedDataset, train_pairs: np.ndarray, device: str = "cpu"):
        self.config, self.data, self.device = config, data, device
        qrels = data.dataset.qrels.get("dev")
        if qrels is None or not len(qrels):
            raise DataError(
                f"data set {data.dataset.name}: qrels/dev.tsv is missing or empty; training validates on it"
            )
        draw = np.random.default_rng(0)  # not train.seed: runs of several seeds answer the same questions
        queries, relevant = measures.relevance(qrels)
        chosen = np.sort(draw.permutation(len(queries))[: config.train.eval_queries])
        self.queries = queries[chosen]
        self.passages = self._ranked(np.unique(np.concatenate([relevant[i][0] for i in chosen])), draw)
        self.relevant = [(np.searchsorted(self.passages, relevant[i][0]), relevant[i][1]) for i in chosen]
        self.probe = train_pairs[np.sort(draw.permutation(len(train_pairs))[:512])]

    def _ranked(self, needed: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Rows of the passages ranked: all, or the relevant ones filled up with others drawn by seed."""
        total, wanted = len(self.data.passages), self.config.train.eval_passages
        if wanted is None or wanted >= total:
            return np.arange(total)
        others = np.setdiff1d(draw.permutation(total), needed)
        return np.sort(np.concatenate([needed, draw.permutation(others)[: max(0, wanted - len(needed))]]))

    def run(self, tree: RoutingTree) -> Outcome:
        """Figures of `tree`: quality per level, health of its routing, similarity of positives and negatives."""
        tree.eval()
        passages = self._nodes(tree, self.data.passages, self.passages)
        queries = self._nodes(tree, self.data.queries, self.queries)
        scores = self._scores(tree, queries, passages)
        figures = {name: float(values.mean()) for name, values in scores.items()}
        figures |= {name: figures[f"{name}/level_{tree.tree.depth:02d}"] for name in METRICS}
        ndcg = {level: figures[f"ndcg_at_10/level_{level:02d}"] for level in default_levels(tree.tree.depth)}
        routing = health.measure(torch.from_numpy(passages[:4096]).clamp_min(1e-30).log(), tree.tree)
        warnings = health.warnings(routing, ndcg, chance=min(1.0, 10 / len(self.passages)))
        figures |= {f"health/{name}": value for name, value in routing.items()}
        return Outcome(figures | self._similarities(tree), warnings, scores)

    def _nodes(self, tree: RoutingTree, encodings: Encodings, rows: np.ndarray) -> np.ndarray:
        """Node probabilities (rows, nodes); the workers share the work and each gets all of it."""
        mine = rows[distributed.share(len(rows))]
        return distributed.concatenate(np.concatenate(list(routed(tree, self.config, encodings, mine, self.device))))

    def _scores(self, tree: RoutingTree, queries: np.ndarray, passages: np.ndarray) -> dict[str, np.ndarray]:
        """One value a query for every metric at every reported level."""
        share = distributed.share(len(queries))
        found: dict[str, np.ndarray] = {}
        for level in default_levels(tree.tree.depth):
            nodes = tree.tree.level(level)
            rows, _ = top_k(
                np.ascontiguousarray(queries[share, nodes]),
                np.ascontiguousarray(passages[:, nodes]),
                min(100, len(passages)),
                self.config.loss.similarity,
            )
            values = measures.per_query(distributed.concatenate(rows), self.relevant)
            found |= {f"{name}/level_{level:02d}": values[name] for name in METRICS}
        return found

    def write_scores(self, outcome: Outcome, path: Path) -> None:
        """Write every query's figures as CSV: its id, then a column for each metric and level."""
        ids = [self.data.dataset.queries[row].id for row in self.queries]
        with write_aside(path) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["query", *outcome.scores])
            for i, query in enumerate(ids):
                writer.writerow([query, *(f"{values[i]:.6g}" for values in outcome.scores.values())])

    def _similarities(self, tree: RoutingTree) -> dict[str, float]:
        """Mean similarity at the last level of training pairs, and of queries with others' passages."""
        measure = similarity(self.config.loss.similarity)
        sides = [
            torch.from_numpy(
                np.concatenate(list(routed(tree, self.config, encodings, self.probe[:, column], self.device)))
            )
            for column, encodings in enumerate((self.data.queries, self.data.passages))
        ]
        leaves = [side[:, tree.tree.level(tree.tree.depth)].clamp_min(1e-30).log() for side in sides]
        matrix = measure(*leaves)
        positive = matrix.diagonal().mean().item()
        pairs = len(matrix)
        negative = (matrix.sum().item() - positive * pairs) / max(1, pairs * (pairs - 1))
        return {"similarity/positive": positive, "similarity/negative": negative}

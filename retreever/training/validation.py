"""Validation of a tree: dev metrics per level, routing health, similarity of positives and negatives.

The configuration fixes the protocol: dev queries and ranked passages are drawn once, independently of the seed of the
run. Workers share the forward passes, and each ranks its share of the queries. This module does not know what a
training does with the figures.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.encoding.text_encodings import Encodings
from retreever.errors import DataError
from retreever.evaluation.level_judgement import judge_levels
from retreever.evaluation.metrics import METRICS, group_judgements
from retreever.model import RoutingTree, default_levels, get_similarity, health
from retreever.system.files import write_atomically
from retreever.trained_tree import route_encodings
from retreever.training import distributed

QUERY_SCORES_FILE = "query_scores.csv"
"""File in a run's folder: every dev query's figures at the best validation, for paired tests between runs."""


@dataclass(frozen=True)
class ValidationResult:
    """Result of a validation.

    Attributes:
        metrics: figures by name.
        warnings: names of the routing failures found.
        scores: one value a query, by metric and level.
    """

    metrics: dict[str, float]
    warnings: list[str]
    scores: dict[str, np.ndarray]


class Validation:
    """The fixed dev queries and passages of a training; `run` measures a tree on them.

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
        draw = np.random.default_rng(0)  # not train.seed: runs of several seeds share their queries
        queries, relevant = group_judgements(qrels)
        chosen = np.sort(draw.permutation(len(queries))[: config.train.eval_queries])
        self.queries = queries[chosen]
        self.passages = self._choose_passages(np.unique(np.concatenate([relevant[i][0] for i in chosen])), draw)
        self.relevant = [(np.searchsorted(self.passages, relevant[i][0]), relevant[i][1]) for i in chosen]
        self.probe = train_pairs[np.sort(draw.permutation(len(train_pairs))[:512])]

    def _choose_passages(self, needed: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Rows of the passages to rank: all, or the relevant ones and others, drawn by seed."""
        total, wanted = len(self.data.passages), self.config.train.eval_passages
        if wanted is None or wanted >= total:
            return np.arange(total)
        others = np.setdiff1d(draw.permutation(total), needed)
        return np.sort(np.concatenate([needed, draw.permutation(others)[: max(0, wanted - len(needed))]]))

    def run(self, tree: RoutingTree) -> ValidationResult:
        """Measure `tree`: metrics per level, health of its routing, similarity of positives and negatives."""
        tree.eval()
        passages = self._route_rows(tree, self.data.passages, self.passages)
        queries = self._route_rows(tree, self.data.queries, self.queries)
        scores = self._score_queries(tree, queries, passages)
        figures = {name: float(values.mean()) for name, values in scores.items()}
        figures |= {name: figures[f"{name}/level_{tree.tree.depth:02d}"] for name in METRICS}
        ndcg = {level: figures[f"ndcg_at_10/level_{level:02d}"] for level in default_levels(tree.tree.depth)}
        routing = health.measure_routing(torch.from_numpy(passages[:4096]).clamp_min(1e-30).log(), tree.tree)
        warnings = health.find_routing_failures(routing, ndcg, chance=min(1.0, 10 / len(self.passages)))
        figures |= {f"health/{name}": value for name, value in routing.items()}
        return ValidationResult(figures | self._measure_similarities(tree), warnings, scores)

    def _route_rows(self, tree: RoutingTree, encodings: Encodings, rows: np.ndarray) -> np.ndarray:
        """Node probabilities (rows, nodes) on every worker; each worker computes its share."""
        own_rows = rows[distributed.worker_slice(len(rows))]
        return distributed.gather_arrays(
            np.concatenate(list(route_encodings(tree, self.config, encodings, own_rows, self.device)))
        )

    def _score_queries(self, tree: RoutingTree, queries: np.ndarray, passages: np.ndarray) -> dict[str, np.ndarray]:
        """Every metric at every reported level: one value a query."""
        own = queries[distributed.worker_slice(len(queries))]
        similarity = self.config.loss.similarity
        return judge_levels(own, passages, self.relevant, tree.tree.depth, similarity, distributed.gather_arrays)

    def write_scores(self, outcome: ValidationResult, path: Path) -> None:
        """Write a CSV with a row a query: its id, then a column for each metric and level."""
        ids = [self.data.dataset.queries[row].id for row in self.queries]
        with write_atomically(path) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["query", *outcome.scores])
            for i, query in enumerate(ids):
                writer.writerow([query, *(f"{values[i]:.6g}" for values in outcome.scores.values())])

    def _measure_similarities(self, tree: RoutingTree) -> dict[str, float]:
        """Mean similarity at the last level, of training pairs and of queries with other pairs' passages."""
        measure = get_similarity(self.config.loss.similarity)
        sides = [
            torch.from_numpy(
                np.concatenate(list(route_encodings(tree, self.config, encodings, self.probe[:, column], self.device)))
            )
            for column, encodings in enumerate((self.data.queries, self.data.passages))
        ]
        leaves = [side[:, tree.tree.level(tree.tree.depth)].clamp_min(1e-30).log() for side in sides]
        matrix = measure(*leaves)
        positive = matrix.diagonal().mean().item()
        pairs = len(matrix)
        negative = (matrix.sum().item() - positive * pairs) / max(1, pairs * (pairs - 1))
        return {"similarity/positive": positive, "similarity/negative": negative}

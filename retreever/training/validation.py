"""Validation of a tree: dev metrics per level, health of its routing, similarity of pairs, figures on guard sets.

Where `train.for` is hybrid, metrics are those of the hybrid. The configuration fixes the protocol: queries and ranked
passages are drawn once, independently of the seed of the run (`judged_sample.py`). A tree that is not trained needs no
dev pairs; then the spread of its passages is all that is measured. This module does not know what a training does with
the figures.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.evaluation.metrics import METRIC, METRICS
from retreever.model import RoutingTree, get_similarity, health
from retreever.system.files import write_atomically
from retreever.trained_tree import route_encodings
from retreever.training.guard_set import GuardSet, judge_guard_sets
from retreever.training.judged_sample import JudgedSample, route_shared

QUERY_SCORES_FILE = "query_scores.csv"
"""File in a run's folder: every dev query's figures at the best validation, for paired tests between runs."""
TREE_ALONE_METRIC = "tree_ndcg_at_10"
"""NDCG@10 of the tree alone at the last level, where the other metrics are those of a hybrid."""
HEALTH_PASSAGES, PROBED_PAIRS = 4096, 512
"""Passages whose routing is measured, and train pairs whose similarity is, at most; drawn once."""


@dataclass(frozen=True)
class ValidationResult:
    """Result of a validation.

    Attributes:
        metrics: figures by name.
        warnings: the routing failures found, one sentence each.
        scores: one value a query, by metric and level; none where dev has no pairs.
    """

    metrics: dict[str, float]
    warnings: list[str]
    scores: dict[str, np.ndarray]


class Validation:
    """The fixed dev queries and passages of a training, and its guard sets; `run` measures a tree on them.

    Raises:
        DataError: the data set has no dev pairs, and `train.steps` is not 0.
    """

    def __init__(
        self,
        config: Config,
        data: EncodedDataset,
        train_pairs: np.ndarray,
        device: str = "cpu",
        guards: Sequence[GuardSet] = (),
    ):
        self.config, self.data, self.device, self.guards = config, data, device, guards
        draw = np.random.default_rng(0)  # not train.seed: runs of several seeds share their queries
        judged = config.train.steps or data.dataset.has_pairs("dev")
        self.sample = JudgedSample(config, data, "dev", draw, device) if judged else None
        self.probe = train_pairs[np.sort(draw.permutation(len(train_pairs))[:PROBED_PAIRS])]
        ranked = len(self.sample.passages) if self.sample else len(data.passages)
        self.watched = np.sort(draw.permutation(ranked)[:HEALTH_PASSAGES])

    def run(self, tree: RoutingTree) -> ValidationResult:
        """Measure `tree`: metrics per level, health of its routing, similarities, and what is left on guard sets."""
        figures, scores = self._judge(tree, self.sample) if self.sample else (self._measure_spread(tree), {})
        warnings = [str(failure) for failure in health.find_routing_failures(figures)]
        figures |= self._measure_similarities(tree) | judge_guard_sets(self.guards, tree)
        return ValidationResult(figures, warnings, scores)

    def _judge(self, tree: RoutingTree, sample: JudgedSample) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Metrics and health on dev, and every query's values."""
        queries, passages = sample.route(tree)
        scores = sample.judge_levels(tree, queries, passages)
        figures = {name: float(values.mean()) for name, values in scores.items()}
        figures |= {name: figures[f"{name}/level_{tree.tree.depth:02d}"] for name in METRICS}
        if sample.hybrid is not None:
            leaves, similarity = tree.tree.level(tree.tree.depth), self.config.loss.similarity
            alone = sample.judge_vectors(queries[:, leaves], passages[:, leaves], similarity)
            figures[TREE_ALONE_METRIC] = float(alone[METRIC].mean())
        return figures | self._measure_health(tree, queries, passages, sample.pairs), scores

    def _measure_health(
        self, tree: RoutingTree, queries: np.ndarray, passages: np.ndarray, pairs: np.ndarray
    ) -> dict[str, float]:
        """How passages spread over the nodes, and how often a query goes where its passage goes."""
        sides = torch.from_numpy(queries), torch.from_numpy(passages)
        spread = health.measure_routing(sides[1][self.watched], tree.tree)
        agreement = health.measure_agreement(*sides, torch.from_numpy(pairs), tree.tree)
        return spread | agreement | {health.CHANCE_FIGURE: min(1.0, 10 / len(passages))}

    def _measure_spread(self, tree: RoutingTree) -> dict[str, float]:
        """How passages spread over the nodes."""
        nodes = route_shared(tree, self.config, self.data.passages, self.watched, self.device)
        return health.measure_routing(torch.from_numpy(nodes), tree.tree)

    def write_scores(self, outcome: ValidationResult, path: Path) -> None:
        """Write a CSV with a row a query: its id, then a column for each metric and level. Without dev: nothing."""
        if self.sample is None:
            return
        ids = [self.data.dataset.queries[row].id for row in self.sample.queries]
        with write_atomically(path) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["query", *outcome.scores])
            for i, query in enumerate(ids):
                writer.writerow([query, *(f"{values[i]:.6g}" for values in outcome.scores.values())])

    def _measure_similarities(self, tree: RoutingTree) -> dict[str, float]:
        """Mean similarity at the last level, of training pairs and of queries with other pairs' passages, if any."""
        if not len(self.probe):
            return {}
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

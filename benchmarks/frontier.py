"""Which settings make a tree rank well and its coarse levels bound tightly? One changes at a time.

    python -m benchmarks.frontier [NAME=VALUE ...]        # after `make demo`, on its corpus and encodings

Trains trees of 256 leaves (300 steps of 512 pairs, seed 0; overrides as for `retreever train --set`). Prints dev
NDCG@10 by dimensions, and the share of passages that survive a bound of so many numbers per passage: only passages
whose bound reaches the 10th best similarity can be among the best 10. One bound is the similarity at a coarser level;
the other uses as many main directions of the corpus, as an index does. Baselines in the same run: the frozen encoder's
cosine, and a scan of all passages, a share of 1.
"""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from retreever.config import Config, parse_override
from retreever.encoding.encoding_store import EncodedDataset, open_encoded_dataset
from retreever.evaluation.metrics import RelevantPassages, evaluate_rankings, group_judgements
from retreever.evaluation.ranking import top_k
from retreever.index.build.segment_builder import CODE_FITTING_SAMPLE
from retreever.index.codes.code_survival import SurvivalProbe
from retreever.index.codes.passage_code import ROUNDING_SLACK
from retreever.index.codes.projection_code import ProjectionCode
from retreever.model import default_levels
from retreever.model.tree import Tree
from retreever.system.workspace import Workspace
from retreever.trained_tree import load_model, route_encodings
from retreever.training import training_loop

K = 10
FRONTIER_QUERIES = 1000
BASE_OVERRIDES = {
    "encoder.words": 0.0,
    "encoder.passage_max_length": 32,
    "encoder.query_max_length": 32,
    "tree.depth": 8,
    "train.steps": 300,
    "train.batch_size": 512,
    "train.weight_decay": 0.8,
    "train.eval_every": 300,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "no level norm": {"tree.level_norm": False},
    "input dropout 0.4": {"train.input_dropout": 0.4},
    "hardly any weight decay": {"train.weight_decay": 0.02},
    "levels weighed alike": {"depth.decay": 0.0},
    "levels weighed by 1 / d^2": {"depth.decay": 2.0},
    "equal spread at all levels": {"tree.init_growth": 0.0},
    "one scale for all levels": {"loss.scale_per_level": False},
    "both of the last two": {"tree.init_growth": 0.0, "loss.scale_per_level": False},
    "scale from 1,600": {"loss.scale": 1600.0},
    "scale from 1,600, equal spread": {"loss.scale": 1600.0, "tree.init_growth": 0.0},
    "scale from 3,000": {"loss.scale": 3000.0},
}


def main() -> None:
    """Print one line per tree."""
    overrides = BASE_OVERRIDES | dict(parse_override(text) for text in sys.argv[1:])
    data = open_encoded_dataset(Config().with_overrides(overrides), Workspace.default())
    rows, relevant = group_judgements(data.dataset.qrels["dev"])
    rows, relevant = rows[:FRONTIER_QUERIES], relevant[:FRONTIER_QUERIES]
    found, _ = top_k(np.asarray(data.queries.last_layer)[rows], np.asarray(data.passages.last_layer), K, "inner")
    print(f"frozen encoder, cosine: {evaluate_rankings(found, relevant)['ndcg_at_10']:.3f}", flush=True)
    for name, changed in VARIANTS.items():
        print(
            f"{name}: {_measure_variant(Config().with_overrides(overrides | changed), data, rows, relevant)}",
            flush=True,
        )


def _measure_variant(config: Config, data: EncodedDataset, rows: np.ndarray, relevant: RelevantPassages) -> str:
    with tempfile.TemporaryDirectory() as folder:
        tree, _ = load_model(training_loop.fit(config, data, Path(folder) / "run").model)
    queries = np.concatenate(list(route_encodings(tree, config, data.queries, rows)))
    passages = np.concatenate(list(route_encodings(tree, config, data.passages)))
    depth, scores = tree.tree.depth, {}
    for level in sorted({*default_levels(depth), depth - 2, depth - 1}):
        nodes = Tree(level).level(level)
        scores[level] = np.sqrt(queries[:, nodes]) @ np.sqrt(passages[:, nodes]).T
    leaves = Tree(depth).level(depth)
    bounds = {f"{2**level} nodes": scores[level] for level in (depth - 2, depth - 1)}
    bounds |= _compute_direction_bounds(np.sqrt(queries[:, leaves]), np.sqrt(passages[:, leaves]), 2 ** (depth - 2))
    return f"{_format_ndcg(scores, relevant, depth)}; surviving {_format_surviving_shares(bounds, scores[depth])}"


def _compute_direction_bounds(queries: np.ndarray, passages: np.ndarray, most: int) -> dict[str, np.ndarray]:
    """Bounds by `most` main directions, and by half as many; see `retreever/index/codes/projection_code.py`."""
    sample = passages[np.random.default_rng(0).permutation(len(passages))[:CODE_FITTING_SAMPLE]]
    bounds, widest = {}, ProjectionCode.fit(sample, SurvivalProbe(sample, roots=True), "alone")
    for dims in (most // 2, most):
        code = widest.truncate(dims)
        centred = queries - code.mean, passages - code.mean
        within = [vectors @ code.basis for vectors in centred]
        outside = [
            np.sqrt(np.maximum(np.square(v).sum(axis=1) - np.square(w).sum(axis=1), 0))
            for v, w in zip(centred, within, strict=True)
        ]
        own = within[0] @ within[1].T + np.outer(*outside) + centred[0] @ code.mean[:, None] + (passages @ code.mean)
        bounds[f"{dims} directions"] = own + np.float32(ROUNDING_SLACK)
    return bounds


def _format_ndcg(scores: Mapping[int, np.ndarray], relevant: RelevantPassages, depth: int) -> str:
    ranked = {level: np.argsort(-scores[level], axis=1, kind="stable")[:, :K] for level in default_levels(depth)}
    return " ".join(
        f"{2**level}: {evaluate_rankings(best, relevant)['ndcg_at_10']:.4f}" for level, best in ranked.items()
    )


def _format_surviving_shares(bounds: Mapping[str, np.ndarray], scores: np.ndarray) -> str:
    """Share of passages whose bound reaches the k-th best similarity."""
    kth = -np.partition(-scores, K - 1, axis=1)[:, K - 1, None]
    return ", ".join(f"{name}: {(bound >= kth).mean():.4f}" for name, bound in bounds.items())


if __name__ == "__main__":
    main()

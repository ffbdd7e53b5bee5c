"""A tree with its companions: ranked by the index, at every level, with weights that are chosen once."""

import numpy as np
import pytest
import torch

from retreever.baselines import BM25, Form
from retreever.comparison.judge import fit_or_load_tree_hybrid
from retreever.comparison.tree_hybrid import TREE_HYBRID, TreeHybrid
from retreever.comparison.tree_ranker import TreeRanker
from retreever.errors import BundleError
from retreever.evaluation.metrics import evaluate_rankings, group_judgements
from retreever.model import RoutingTree
from retreever.trained_tree import save_model
from tests.support import tiny

DEPTH = 6


@pytest.fixture(scope="module", params=["bhattacharyya", "ntvd"])
def world(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hybrid")
    tiny.tiny_bert(folder / "bert")
    config = tiny.tiny_config(
        folder / "bert", loss__similarity=request.param, tree__depth=DEPTH, tree__init_std=1.0, train__for="hybrid"
    )
    data = tiny.encoded(folder, config.encoder)
    torch.manual_seed(0)
    tree = RoutingTree(32, **config.tree.architecture())
    tree.calibrate(*data.passages.batch(np.arange(100), False))
    save_model(tree, config, folder / "model")
    hybrid = fit_or_load_tree_hybrid(folder / "model", data, folder / "cache")
    hybrid.index(data)
    return folder, config, data, hybrid


def test_every_level_has_the_same_companions(world):
    hybrid = world[3]
    assert [(form.dims, form.code) for form in hybrid.forms] == [(16, "float16 sum"), (64, "float16 sum")]
    sizes = [hybrid.bytes_per_document(form) for form in hybrid.forms]
    assert sizes[1] - sizes[0] == 2 * (64 - 16) and sizes[0] > 2 * 16 + 2 * 32  # vector, encoding, and words


def test_it_finds_what_dev_promised_and_more_than_the_tree_alone(world):
    _, config, data, hybrid = world
    queries, relevant = group_judgements(data.dataset.qrels["dev"])
    alone, curve = TreeRanker(hybrid.trained.tree, config), hybrid.weights.curve
    alone.index(data)
    fused = evaluate_rankings(hybrid.search(queries, 10, hybrid.forms[-1])[0], relevant)["ndcg_at_10"]
    pairs = list(zip(curve.weights, curve.encoding_weights, strict=True))
    promised = curve.ndcg_at_10[pairs.index((hybrid.weights.words, hybrid.weights.encodings))]
    assert fused == pytest.approx(promised, abs=1e-4) and promised >= max(curve.ndcg_at_10) - 0.02
    assert fused > evaluate_rankings(alone.search(queries, 10, Form(64))[0], relevant)["ndcg_at_10"] + 0.1


def test_settings_are_cached_by_tree(world, monkeypatch):
    folder, config, data, hybrid = world
    tuned = []
    monkeypatch.setattr(TreeHybrid, "tune", lambda own, *rest: tuned.append(own))
    again = fit_or_load_tree_hybrid(folder / "model", data, folder / "cache")
    assert not tuned and again.weights == hybrid.weights and hybrid.weights.curve
    save_model(RoutingTree(32, **config.tree.architecture()), config, folder / "another")
    fit_or_load_tree_hybrid(folder / "another", data, folder / "cache")
    assert len(tuned) == 1


def test_settings_of_another_system_are_refused(world, tmp_path):
    hybrid = world[3]
    BM25().save(tmp_path / "words")
    with pytest.raises(BundleError, match="holds the baseline 'bm25', expected 'tree\\+bm25'"):
        hybrid.load(tmp_path / "words")
    assert hybrid.name == TREE_HYBRID

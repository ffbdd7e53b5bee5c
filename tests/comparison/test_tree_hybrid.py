"""A tree with BM25: ranked by the fusion of the hybrid baselines, at every level, tuned once."""

import numpy as np
import pytest
import torch

from retreever.baselines import BM25, Form
from retreever.comparison.judge import fit_or_load_tree_hybrid
from retreever.comparison.tree_hybrid import TREE_HYBRID, TreeHybrid
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
    config = tiny.tiny_config(folder / "bert", loss__similarity=request.param, tree__depth=DEPTH, tree__init_std=1.0)
    data = tiny.encoded(folder, config.encoder)
    torch.manual_seed(0)
    tree = RoutingTree(32, **config.tree.architecture())
    tree.calibrate(*data.passages.batch(np.arange(100), False))
    save_model(tree, config, folder / "model")
    hybrid = fit_or_load_tree_hybrid(folder / "model", config, data, folder / "cache")
    hybrid.index(data)
    return folder, config, data, hybrid


def test_every_level_is_fused_and_has_settings_of_its_own(world):
    hybrid = world[3]
    levels = [16, 64]
    assert [(form.dims, form.code) for form in hybrid.forms] == [
        (size, code) for code in ("float32 sum", "int8 sum", "float32 rrf") for size in levels
    ]
    assert set(hybrid.settings) == {"16", "64"}


def test_the_ranking_is_that_of_the_fused_scores(world):
    hybrid, queries = world[3], np.arange(240, 300)
    lexical, dense = hybrid.lexical.score_all(queries, Form()), hybrid.dense.score_all(queries, Form(64))
    weight = hybrid.settings["64"]["sum"]
    fused = (1 - weight) * dense / hybrid.dense.measure_scale(Form(64)) + weight * lexical / np.log(1 + 300.5 / 0.5)
    rows, scores = hybrid.search(queries, 100, Form(64, "float32 sum"))
    np.testing.assert_allclose(scores, -np.sort(-fused, axis=1)[:, :100], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(fused, rows, axis=1), scores, rtol=1e-4, atol=1e-4)


def test_fused_it_finds_no_less_than_alone(world):
    _, _, data, hybrid = world
    queries, relevant = group_judgements(data.dataset.qrels["dev"])
    alone = evaluate_rankings(hybrid.dense.search(queries, 10, Form(64))[0], relevant)["ndcg_at_10"]
    words = evaluate_rankings(hybrid.lexical.search(queries, 10, Form())[0], relevant)["ndcg_at_10"]
    fused = evaluate_rankings(hybrid.search(queries, 10, Form(64, "float32 sum"))[0], relevant)["ndcg_at_10"]
    assert fused >= max(alone, words) - 1e-6


def test_settings_are_cached_by_tree(world, monkeypatch):
    folder, config, data, hybrid = world
    tuned = []
    monkeypatch.setattr(TreeHybrid, "tune", lambda own, *rest: tuned.append(own))
    again = fit_or_load_tree_hybrid(folder / "model", config, data, folder / "cache")
    assert not tuned and again.settings == hybrid.settings
    save_model(RoutingTree(32, **config.tree.architecture()), config, folder / "another")
    fit_or_load_tree_hybrid(folder / "another", config, data, folder / "cache")
    assert len(tuned) == 1


def test_settings_of_another_system_are_refused(world, tmp_path):
    hybrid = world[3]
    BM25().save(tmp_path / "words")
    with pytest.raises(BundleError, match="holds the baseline 'bm25', expected 'tree\\+bm25'"):
        hybrid.load(tmp_path / "words")
    assert hybrid.name == TREE_HYBRID

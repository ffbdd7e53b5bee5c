"""What a validation adds to similarities is what the index adds, so that what is judged is what is served."""

import numpy as np
import pytest

from retreever.bundle.build_index import build_index
from retreever.bundle.fit_relevance import make_dataset_hybrid
from retreever.bundle.hybrid_weights import HybridWeights
from retreever.evaluation.ranking import rank_sums, select_top_k
from retreever.trained_tree import TrainedTree, route_encodings
from retreever.training import training_loop
from retreever.training.guard_set import GuardSet
from retreever.training.hybrid_scores import HybridScores
from tests.support import tiny
from tests.support.trees import build_tree

WEIGHTS = HybridWeights(3.0, 0.3)


@pytest.fixture(scope="module", params=["bhattacharyya", "ntvd"])
def parts(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    encoder = tiny.tiny_bert(folder / "bert")
    config = tiny.tiny_config(
        encoder, train__for="hybrid", loss__similarity=request.param, index__dtype="float32", train__steps=20
    )
    data = tiny.encoded(folder / "store", config.encoding)
    tree = build_tree(data.dim, **config.tree.architecture())
    return config, data, tree, folder


@pytest.mark.parametrize("level", [1, 3, 4])
def test_scores_are_those_of_the_index(parts, level):
    config, data, tree, folder = parts
    queries, passages = np.arange(0, 300, 7), np.arange(len(data.passages))
    trained = TrainedTree(tree, config, "0" * 64, folder)
    index = build_index(trained, data)
    sides = [
        np.concatenate(list(route_encodings(tree, config, side, rows)))
        for side, rows in ((data.queries, queries), (data.passages, passages))
    ]
    hybrid = make_dataset_hybrid(data, queries, WEIGHTS)
    _, scores = index.search(sides[0], 10, level, hybrid=hybrid)
    q, p = (np.ascontiguousarray(side[:, tree.tree.level(level)]) for side in sides)
    added = HybridScores(config, data, queries, passages, WEIGHTS).add_to_level(level, p)
    _, found = rank_sums(q, p, 10, config.loss.similarity, added)
    np.testing.assert_allclose(found, scores, atol=2e-5)
    later = HybridScores(config, data, queries, passages, WEIGHTS).add_to_level(level, p, first=5)
    np.testing.assert_array_equal(later(slice(0, 3)), added(slice(5, 8)))


def test_validations_judge_the_hybrid_and_tell_the_tree_alone(parts, tmp_path):
    config, data, _, _ = parts
    best = training_loop.fit(config, data, tmp_path / "hybrid").best
    alone = training_loop.fit(config.with_overrides({"train.for": "tree"}), data, tmp_path / "tree").best
    assert best["ndcg_at_10"] > best["tree_ndcg_at_10"] + 0.05  # words of the queries are words of their passages
    assert "tree_ndcg_at_10" not in alone and best["ndcg_at_10"] > alone["ndcg_at_10"]


def test_a_guard_set_adds_the_same_words_to_the_frozen_encoder(parts):
    config, data, tree, _ = parts
    guard = GuardSet("own", data, config)
    plain = GuardSet("own", data, config.with_overrides({"train.for": "tree"}))
    assert guard.frozen > plain.frozen
    heavy = HybridScores(config, data, guard.sample.queries, guard.sample.passages, HybridWeights(1000.0, 0.0))
    (by_words,) = {tuple(select_top_k(heavy.add_to_encoder()(slice(0, 5)), 1)[0].ravel().tolist())}
    assert by_words == tuple(int(rows[0]) for rows, _ in guard.sample.relevant[:5])
    assert guard.judge(tree)["guard/own/of_frozen"] == pytest.approx(
        guard.judge(tree)["guard/own/ndcg_at_10"] / guard.frozen
    )

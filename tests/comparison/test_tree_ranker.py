"""A tree as a ranker: what it stores ranks as its probabilities do, in every form."""

import numpy as np
import pytest
import torch

from retreever.baselines import Form
from retreever.comparison.tree_ranker import TreeRanker
from retreever.evaluation.ranking import top_k
from retreever.model import RoutingTree
from retreever.trained_tree import route_encodings
from tests.support import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranker")
    tiny.tiny_bert(folder / "bert")
    return tiny.encoded(folder, tiny.tiny_config(folder / "bert").encoder), folder / "bert"


def make_ranker(data, similarity, depth=8):
    config = tiny.tiny_config(data[1], loss__similarity=similarity, tree__depth=depth, tree__init_std=1.0)
    torch.manual_seed(0)
    tree = RoutingTree(32, **config.tree.architecture())
    tree.calibrate(*data[0].passages.batch(np.arange(100), False))
    ranker = TreeRanker(tree, config)
    ranker.index(data[0])
    return ranker


@pytest.mark.parametrize("similarity", ["bhattacharyya", "ntvd"])
def test_every_level_ranks_as_by_brute_force(data, similarity):
    ranker = make_ranker(data, similarity)
    tree, config, rows = ranker.tree, ranker.config, np.arange(40)
    queries = np.concatenate(list(route_encodings(tree, config, data[0].queries, rows)))
    passages = np.concatenate(list(route_encodings(tree, config, data[0].passages)))
    for level in (4, 6, 8):
        nodes = tree.tree.level(level)
        expected, scores = top_k(queries[:, nodes], passages[:, nodes], 10, similarity)
        found, ours = ranker.search(rows, 10, Form(2**level))
        np.testing.assert_allclose(ours, scores, atol=1e-5)
        assert (found == expected).mean() > 0.99  # near ties may turn


@pytest.mark.parametrize("similarity", ["bhattacharyya", "ntvd"])
def test_every_passage_scores_as_in_a_search(data, similarity):
    ranker = make_ranker(data, similarity)
    for form in (Form(16), Form(256), Form(256, "int8")):
        rows, scores = ranker.search(np.arange(40), 300, form)
        found = ranker.score_all(np.arange(40), form)
        np.testing.assert_allclose(np.take_along_axis(found, rows, axis=1), scores, atol=1e-5)


@pytest.mark.parametrize("similarity", ["bhattacharyya", "ntvd"])
def test_the_scale_is_the_deviation_of_similarities_between_passages(data, similarity):
    ranker = make_ranker(data, similarity)
    passages = np.concatenate(list(route_encodings(ranker.tree, ranker.config, data[0].passages)))
    level = passages[:, ranker.tree.tree.level(6)]
    _, scores = top_k(level, level, len(level), similarity)
    expected = scores[:, 1:].std(axis=1).mean()  # without itself, which is the most alike
    assert ranker.measure_scale(Form(64)) == pytest.approx(expected, rel=0.05)  # of a sample


@pytest.mark.parametrize("similarity", ["bhattacharyya", "ntvd"])
def test_bytes_rank_nearly_as_floats(data, similarity):
    ranker = make_ranker(data, similarity)
    for dims in (16, 256):
        floats, _ = ranker.search(np.arange(60), 10, Form(dims))
        coded, _ = ranker.search(np.arange(60), 10, Form(dims, "int8"))
        assert ranker.bytes_per_document(Form(dims, "int8")) == dims
        assert np.mean([len(set(a) & set(b)) for a, b in zip(floats, coded, strict=True)]) > 8.5


@pytest.mark.parametrize("similarity", ["bhattacharyya", "ntvd"])
def test_the_index_that_is_served_finds_what_a_scan_finds(data, similarity):
    ranker = make_ranker(data, similarity)
    scanned, scores = ranker.search(np.arange(60), 10, Form(256))
    found, ours = ranker.search(np.arange(60), 10, Form(256, "certified"))
    np.testing.assert_allclose(ours, scores, atol=2e-3)  # it holds float16
    assert np.mean([len(set(a) & set(b)) for a, b in zip(scanned, found, strict=True)]) > 9.5
    assert ranker.bytes_per_document(Form(256, "certified")) > 2 * 256


def test_passages_and_many_queries_are_routed_once_for_all_forms_and_a_single_query_each_time(data, monkeypatch):
    ranker = make_ranker(data, "bhattacharyya")
    texts, forward = [], ranker.tree.forward
    monkeypatch.setattr(ranker.tree, "forward", lambda x, *rest: texts.append(len(x)) or forward(x, *rest))
    for form in ranker.forms:
        ranker.search(np.arange(60), 10, form)
    assert texts == [60]
    ranker.search(np.arange(30), 10, Form(256))
    for form in ranker.forms:
        ranker.search(np.arange(1), 10, form)
    assert texts == [60, 30, *(1 for _ in ranker.forms)]


def test_forms_are_the_levels_reported_and_quantisers_for_fine_trees(data):
    codes = [(form.dims, form.code) for form in make_ranker(data, "bhattacharyya").forms]
    levels = [16, 64, 256]
    assert codes == [(d, "float32") for d in levels] + [(d, "int8") for d in levels] + [
        (256, "pq64"),
        (256, "certified"),
    ]
    coarse = [form.code for form in make_ranker(data, "ntvd", 5).forms]
    assert coarse == ["float32", "float32", "int8", "int8", "certified"]


def test_a_saved_tree_is_loaded_with_its_configuration(data, tmp_path):
    from retreever.trained_tree import save_model

    ranker = make_ranker(data, "bhattacharyya", 4)
    save_model(ranker.tree, ranker.config, tmp_path / "model")
    again = TreeRanker.load(tmp_path / "model")
    again.index(data[0])
    for ours, theirs in zip(*(c.search(np.arange(9), 5, Form(16)) for c in (ranker, again)), strict=True):
        np.testing.assert_array_equal(ours, theirs)

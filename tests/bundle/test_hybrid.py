"""Hybrid search in a bundle: the weights that dev and guards choose, live documents, and what cannot be asked for."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from retreever.bundle.fit_hybrid import TRIED_WITH_ENCODINGS, pick_weights
from retreever.bundle.hybrid_weights import HYBRID_FILE, HybridWeights, choose_usual_weights
from retreever.bundle.retriever import Retreever
from retreever.data.beir import write_beir
from retreever.data.dataset import Passage
from retreever.errors import BundleError
from retreever.index import Hybrid
from tests.support.bundles import tiny_bundle
from tests.support.tiny import tiny_dataset


@pytest.fixture
def live(served, tmp_path):
    return shutil.copytree(served[1], tmp_path / "live")


def rank(retreever, texts, weight, k=10):
    nodes = retreever.route(texts, "query")
    return retreever.index.search(nodes, k, retreever.tree.depth, hybrid=Hybrid(texts, weight))


@pytest.fixture(scope="module")
def trained_for_hybrid(served):
    guarded = dataclasses.replace(tiny_dataset(seed=7), name="guarded")
    write_beir(guarded, served[0].dataset_folder("guarded"))
    return tiny_bundle(served[1].parent.parent, served[0], "hybrid", train__for="hybrid", train__guard=["guarded"])


def test_dev_chooses_the_weights_and_auto_takes_them(served):
    retreever, text = Retreever.load(served[1]), "ba bi ka"
    chosen, curve = retreever.hybrid, retreever.hybrid.curve
    best = int(np.argmax(curve.ndcg_at_10))
    taken = curve.weights.index(chosen.words)
    assert taken >= best and curve.ndcg_at_10[taken] >= curve.ndcg_at_10[best] - 0.02
    assert chosen.encodings == 0 and curve.weights[0] == 0
    assert curve.queries >= 20 and all(0 <= figure <= 1 for figure in curve.ndcg_at_10)
    numbers, scores = rank(retreever, [text], chosen.words)
    hits = retreever.search([text], 10, hybrid="auto")[0]
    assert [hit.id for hit in hits] == retreever.index.find_ids(numbers[0].tolist())
    assert [hit.score for hit in hits] == scores[0].tolist()


def test_guard_sets_choose_among_what_dev_allows():
    tried, draw = [(0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (2.0, 1.0)], np.random.default_rng(0)
    dev = np.array([0.5, 0.7, 0.699, 0.68])[:, None] + draw.normal(0, 0.05, (4, 400))
    guards = [np.array([0.1, 0.3, 0.2, 0.9]), np.array([0.1, 0.1, 0.4, 0.1])]
    assert pick_weights(dev, guards[:1], tried) == 1  # the last costs more on dev than chance explains
    assert pick_weights(dev, guards, tried) == 2
    assert pick_weights(dev, [], tried) == 2


def test_a_model_for_hybrids_is_searched_as_one(served, trained_for_hybrid):
    retreever, text = Retreever.load(trained_for_hybrid), "ba bi ka"
    assert retreever.index.layout.encoding_dim == retreever.encoder.export.facts.hidden
    pairs = list(zip(retreever.hybrid.curve.weights, retreever.hybrid.curve.encoding_weights, strict=True))
    assert pairs == list(TRIED_WITH_ENCODINGS) and set(retreever.hybrid.curve.guards) == {"guarded"}
    hits = retreever.search([text], 10)[0]
    assert hits == retreever.search([text], 10, hybrid="auto")[0] != retreever.search([text], 10, hybrid="off")[0]
    assert all(0 <= hit.relevance <= 1 for hit in hits)
    other = Retreever.load(served[1])
    assert other.search([text], 10)[0] == other.search([text], 10, hybrid="off")[0]


def test_hits_with_other_weights_have_no_relevance(trained_for_hybrid):
    retreever = Retreever.load(trained_for_hybrid)
    assert {hit.relevance for hit in retreever.search(["ba bi"], 10, hybrid=retreever.hybrid.words + 1)[0]} == {None}
    assert {hit.relevance for hit in retreever.search(["ba bi"], 10, hybrid="rrf")[0]} == {None}


def test_a_document_that_is_added_is_found_by_its_encoding(trained_for_hybrid, tmp_path):
    live = shutil.copytree(trained_for_hybrid, tmp_path / "live")
    retreever = Retreever.load(live)
    retreever.hybrid = HybridWeights(0.0, 1000.0)
    retreever.add([Passage("new", "zanzibar quokka", "")])
    reopened = Retreever.load(live)
    reopened.hybrid = retreever.hybrid
    for one in (retreever, reopened):
        assert one.search(["zanzibar quokka"], 1)[0][0].id == "new"


def test_reciprocal_ranks_are_those_of_both_rankings(served):
    retreever, text = Retreever.load(served[1]), "ba bi ka"
    by_tree = [hit.id for hit in retreever.search([text], 100, hybrid="off")[0]]
    by_words = [hit.id for hit in retreever.search([text], 100, hybrid=1000.0)[0] if set(text.split()) & words_of(hit)]
    sums = {}
    for ranking in (by_tree, by_words):
        for place, name in enumerate(ranking, 1):
            sums[name] = sums.get(name, 0) + 1 / (10 + place)
    best = sorted(sums, key=lambda name: (-sums[name], name))[:10]
    hits = retreever.search([text], 10, hybrid="rrf")[0]
    assert [hit.id for hit in hits] == best
    np.testing.assert_allclose([hit.score for hit in hits], [sums[name] for name in best], rtol=1e-6)
    assert len(by_words) < len(by_tree)


def words_of(hit):
    return set(hit.text.split())


def test_off_and_weight_zero_rank_as_the_tree_and_a_weight_ranks_by_words(served):
    retreever, text = Retreever.load(served[1]), "ba bi ka"
    plain = retreever.search([text], 10)[0]
    assert retreever.search([text], 10, hybrid="off")[0] == plain
    assert [hit.id for hit in retreever.search([text], 10, hybrid=0.0)[0]] == [hit.id for hit in plain]
    heavy = retreever.search([text], 10, hybrid=1000)[0]
    assert all(set(text.split()) & set(hit.text.split()) for hit in heavy)
    assert [hit.id for hit in heavy] != [hit.id for hit in plain]


def test_a_document_that_is_added_is_found_by_its_words(live):
    retreever = Retreever.load(live)
    retreever.add([Passage("new", "zanzibar quokka", "")])
    assert Retreever.load(live).search(["zanzibar"], 1, hybrid=100.0)[0][0].id == "new"
    retreever.delete(["new"])
    assert Retreever.load(live).search(["zanzibar"], 1, hybrid=100.0)[0][0].id != "new"


@pytest.mark.parametrize("choice", ["on", -1, float("nan"), 1001])
def test_other_choices_are_refused(served, choice):
    with pytest.raises(ValueError, match=r"hybrid: must be auto, off, rrf or a weight in \[0, 1000\]"):
        Retreever.load(served[1]).search(["ba"], hybrid=choice)


def test_without_dev_queries_usual_weights_are_taken(served):
    loaded = Retreever.load(served[1])
    parts = (loaded.folder, loaded.config, loaded.digest, loaded.router, loaded.index, loaded.documents)
    assert Retreever(*parts, relevance=None, hybrid=None).hybrid == choose_usual_weights(False)


def test_a_bundle_without_words_says_so(served):
    folder = tiny_bundle(served[1].parent.parent, served[0], "wordless", index__lexical=False)
    assert not (folder / HYBRID_FILE).exists()
    with pytest.raises(ValueError, match="hybrid: this bundle has no words; make it anew"):
        Retreever.load(folder).search(["ba"], hybrid="auto")


@pytest.mark.parametrize(
    "damage",
    [
        lambda values: "[]",
        lambda values: json.dumps({**values, "model": "another"}),
        lambda values: json.dumps({**values, "weight": "much"}),
    ],
)
def test_a_damaged_weight_is_refused_by_name(live, damage):
    file = live / HYBRID_FILE
    digest = Retreever.load(live).digest
    file.write_text(damage(json.loads(file.read_text())))
    with pytest.raises(BundleError, match=HYBRID_FILE):
        HybridWeights.load(live, digest)

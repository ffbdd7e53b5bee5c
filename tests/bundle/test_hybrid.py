"""Hybrid search in a bundle: the weight that dev chooses, live documents, and what cannot be asked for."""

import json
import shutil

import numpy as np
import pytest

from retreever.bundle.hybrid_weight import HYBRID_FILE, UNFITTED_WEIGHT, HybridWeight
from retreever.bundle.retriever import Retreever
from retreever.data.dataset import Passage
from retreever.errors import BundleError
from retreever.index import Hybrid


@pytest.fixture
def live(served, tmp_path):
    return shutil.copytree(served[1], tmp_path / "live")


def rank(retreever, texts, weight, k=10):
    nodes = retreever.route(texts, "query")
    return retreever.index.search(nodes, k, retreever.tree.depth, hybrid=Hybrid(texts, weight))


def test_dev_chooses_the_weight_and_auto_takes_it(served):
    retreever, text = Retreever.load(served[1]), "ba bi ka"
    curve = retreever.hybrid.curve
    assert retreever.hybrid.weight == curve.weights[int(np.argmax(curve.ndcg_at_10))] and curve.weights[0] == 0
    assert curve.queries >= 20 and all(0 <= figure <= 1 for figure in curve.ndcg_at_10)
    numbers, scores = rank(retreever, [text], retreever.hybrid.weight)
    hits = retreever.search([text], 10, hybrid="auto")[0]
    assert [hit.id for hit in hits] == retreever.index.find_ids(numbers[0].tolist())
    assert [hit.score for hit in hits] == scores[0].tolist() and {hit.relevance for hit in hits} == {None}


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
    with pytest.raises(ValueError, match=r"hybrid: must be auto, off or a weight in \[0, 1000\]"):
        Retreever.load(served[1]).search(["ba"], hybrid=choice)


def test_without_dev_queries_a_usual_weight_is_taken(live):
    retreever = Retreever.load(live)
    retreever.hybrid = None
    numbers, _ = rank(retreever, ["ba be"], UNFITTED_WEIGHT)
    hits = retreever.search(["ba be"], 10, hybrid="auto")[0]
    assert [hit.id for hit in hits] == retreever.index.find_ids(numbers[0].tolist())


def test_a_bundle_without_words_says_so(served):
    from tests.support.bundles import tiny_bundle

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
        HybridWeight.load(live, digest)

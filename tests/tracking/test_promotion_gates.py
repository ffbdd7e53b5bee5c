"""The gates judge a bundle as it is served: a tree alone by similarity, a hybrid by its sum."""

import numpy as np
import pytest

from retreever.bundle.retriever import Retreever
from retreever.encoding.encoding_store import open_encoded_dataset
from retreever.evaluation.metrics import evaluate_rankings, group_judgements
from retreever.tracking.promotion_gates import measure_bundle, measure_guards
from tests.support.bundles import tiny_bundle
from tests.support.tiny import tiny_dataset


@pytest.mark.parametrize("goal", ["tree", "hybrid"])
def test_the_figures_are_those_of_what_is_served(served, goal):
    workspace = served[0]
    bundle = tiny_bundle(served[1].parent.parent, workspace, f"gate-{goal}", train__for=goal, index__dtype="float32")
    retreever = Retreever.load(bundle)
    data = open_encoded_dataset(retreever.config, workspace)
    queries, relevant = group_judgements(data.dataset.qrels["test"])
    texts = data.dataset.query_texts()
    found = retreever.search([texts[row] for row in queries.tolist()], 10)
    rows = np.array([[int(hit.id.removeprefix("p")) for hit in hits] for hits in found])
    measured = measure_bundle(bundle, retreever.config, workspace, "test")
    assert measured.figures["ndcg_at_10"] == pytest.approx(evaluate_rankings(rows, relevant)["ndcg_at_10"], abs=1e-6)
    assert measured.figures["ndcg_at_10"] == measured.scores.mean()


def test_a_hybrid_is_guarded_with_the_weights_of_its_bundle(served):
    from dataclasses import replace

    from retreever.bundle.hybrid_weights import HybridWeights
    from retreever.data.beir import write_beir
    from retreever.system.files import read_json, seal_folder
    from retreever.trained_tree import BUNDLE_FORMAT, digest_model

    workspace = served[0]
    write_beir(replace(tiny_dataset(seed=9), name="watched"), workspace.dataset_folder("watched"))
    settings = {"train__for": "hybrid", "train__guard": ["watched"]}
    bundle = tiny_bundle(served[1].parent.parent, workspace, "guarded", **settings)
    before = measure_guards(bundle, workspace)
    own = HybridWeights.load(bundle, digest_model(bundle))
    HybridWeights(0.0, 0.0, own.curve).save(bundle, digest_model(bundle))
    manifest = read_json(bundle / "manifest.json")
    seal_folder(bundle, {"format": BUNDLE_FORMAT, **{k: manifest[k] for k in ("dataset", "dataset_digest")}})
    after = measure_guards(bundle, workspace)
    assert before.keys() == after.keys() and before["guard/watched/ndcg_at_10"] > after["guard/watched/ndcg_at_10"]

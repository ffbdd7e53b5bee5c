"""RAPTOR's parts: the tree over passages, what a retrieved summary stands for, the clusters and the summaries."""

import re

import numpy as np
import pytest

from retreever.baselines import Raptor
from retreever.baselines.clustered.raptor_clusters import cluster_by_mixture, find_soft_clusters
from retreever.baselines.clustered.raptor_summaries import ExtractiveSummarizer, LanguageModelSummarizer

COLLAPSED, LAYERS = Raptor.forms


def principal(vectors, neighbours, seed):
    """Principal components in UMAP's place, which takes half a minute to compile."""
    centred = vectors - vectors.mean(axis=0)
    return centred @ np.linalg.svd(centred, full_matrices=False)[2][:10].T


@pytest.fixture(scope="module")
def raptor(data):
    def encode(texts):
        rows = [[int(n) for n in re.findall(r"topic(\d+)", text)] for text in texts]
        return np.stack([data.passages.pooled[r].mean(axis=0) for r in rows])

    baseline = Raptor(encode, reduce=principal)
    baseline.fit(data)
    return baseline


def test_every_passage_lies_below_the_first_layer(raptor):
    first = raptor._below[: raptor._layers[0]]
    assert len(first) < 60
    np.testing.assert_array_equal(np.unique(np.concatenate(first)), np.arange(60))


def test_a_summary_stands_for_the_passages_of_its_children(raptor):
    for i, below in enumerate(raptor._below):
        children = raptor._children[raptor._offsets[i] : raptor._offsets[i + 1]]
        expected = [[c] if c < 60 else raptor._below[c - 60] for c in children]
        np.testing.assert_array_equal(below, np.unique(np.concatenate(expected)))


def test_collapsed_ranks_as_the_slow_walk_over_nodes(raptor, data):
    for query in range(8):
        unit = data.queries.pooled[query] / np.linalg.norm(data.queries.pooled[query])
        cosines = raptor._nodes @ unit
        expected = []
        for node in np.argsort(-cosines, kind="stable"):
            below = [node] if node < 60 else raptor._below[node - 60]
            expected += [row for row in sorted(below, key=lambda r: -cosines[r]) if row not in expected]
        np.testing.assert_array_equal(raptor.search(np.array([query]), 60, COLLAPSED)[0][0], expected)


def test_layers_begin_with_the_best_children_of_the_chosen_nodes(raptor, data):
    query = data.queries.pooled[3] / np.linalg.norm(data.queries.pooled[3])
    cosines = raptor._nodes @ query
    nodes = np.arange(60 + raptor._layers[:-1].sum(), len(cosines))
    for _ in raptor._layers:
        best = sorted(nodes, key=lambda node: -cosines[node])[:5]
        spans = [raptor._children[raptor._offsets[n - 60] : raptor._offsets[n - 59]] for n in best]
        nodes = np.unique(np.concatenate(spans))
    expected = sorted(nodes, key=lambda node: -cosines[node])[:5]
    np.testing.assert_array_equal(raptor.search(np.array([3]), 5, LAYERS)[0][0], expected[:5])


def test_a_tree_of_other_passages_is_built_anew(raptor, data, tmp_path):
    raptor.save(tmp_path / "tree")
    other = Raptor(raptor._encode, reduce=principal)
    other.load(tmp_path / "tree")
    built = []
    other._build = lambda *arguments: built.append(arguments)
    other.index(data)
    assert not built
    other._digest = "another"
    other.index(data)
    assert len(built) == 1


def test_bytes_count_summaries_and_children(raptor):
    nodes = 60 + raptor._layers.sum()
    children = 8 * (len(raptor._children) + len(raptor._offsets))
    assert raptor.bytes_per_document(COLLAPSED) == (4 * 40 * nodes + children) / 60


def test_mixture_finds_blobs_and_leaves_nobody_out():
    draw = np.random.default_rng(0)
    blobs = np.concatenate([centre + 0.05 * draw.normal(size=(40, 3)) for centre in np.eye(3) * 4])
    found = cluster_by_mixture(blobs, seed=0)
    assert sorted(map(len, found)) == [40, 40, 40]
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(120))


def test_few_vectors_are_one_cluster():
    (members,) = find_soft_clusters(np.eye(11, 20, dtype=np.float32), np.ones(11), seed=0)
    np.testing.assert_array_equal(members, np.arange(11))


def test_a_cluster_that_is_too_long_is_split_while_that_helps():
    draw = np.random.default_rng(0)
    blobs = np.concatenate([centre + 0.05 * draw.normal(size=(40, 12)) for centre in np.eye(4, 12) * 4])
    short, long = (find_soft_clusters(blobs, np.full(160, size), 0, lambda x, n, s: x) for size in (1, 100))
    assert sorted(map(len, short)) == [40] * 4
    assert max(map(len, long)) <= 40  # 4,000 tokens: split where a mixture of more fits better, else left


@pytest.mark.slow
def test_umap_keeps_topics_together(data):
    found = find_soft_clusters(np.repeat(data.passages.pooled[:20], 12, axis=0), np.ones(240), seed=0)
    assert len(found) > 5
    assert np.mean([len(np.unique(members // 12)) for members in found]) < 8


def test_central_sentences_are_taken_and_rare_asides_left():
    texts = ["Trees route queries to leaves. My dog barked.", "Queries reach leaves of trees. It rained in May."]
    summarize = ExtractiveSummarizer(texts)
    summary = summarize(texts * 2)
    assert summary.startswith(("Trees route queries", "Queries reach leaves"))
    assert summary.count("Trees route") == 1


def test_a_summary_ends_at_its_length():
    texts = [f"word{i} " * 30 + "." for i in range(20)]
    assert 100 <= len(ExtractiveSummarizer(texts)(texts).split()) < 140


def test_any_language_model_can_summarise(tmp_path):
    from tests.support.architectures import save_language_model
    from tests.support.tiny import WORDS

    summarize = LanguageModelSummarizer(str(save_language_model(tmp_path / "gpt")))
    texts = [" ".join(WORDS[:60]), " ".join(WORDS[60:])]
    assert summarize(texts) == summarize(texts)
    assert 0 < len(summarize(texts).split()) <= 100

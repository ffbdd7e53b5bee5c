"""What the nodes of a tree mean: words, sizes that add up, typical examples, all by the sharp reading."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from retreever.bundle.document_store import DocumentStore, write_documents
from retreever.bundle.nodes import node_explanation as module
from retreever.bundle.nodes import node_words
from retreever.bundle.nodes.node_explanation import Explanation, explain_nodes, load_or_explain, read_stored_sharply
from retreever.data.dataset import Passage
from retreever.errors import BundleError
from retreever.index import Layout, TreeIndex
from retreever.model.sharp_reading import count_effective_nodes, sharpen
from retreever.model.tree import Tree
from tests.support.nodes import add_levels, draw_nodes

DEPTH, PASSAGES, EFFECTIVE = 3, 400, 2.0
TOPICS = ("array shape axis", "socket port listen", "parse token grammar", "plot colour legend")
SIMILARITIES = ("ntvd", "bhattacharyya")


def route_softly(topics):
    """Node probabilities of passages that prefer the two leaves of their topic by only 0.02 each."""
    draw = np.random.default_rng(0)
    leaves = np.full((len(topics), 8), 0.125) + 0.01 * draw.random((len(topics), 8))
    for leaf in (0, 1):
        leaves[np.arange(len(topics)), 2 * topics + leaf] += 0.02
    return add_levels(leaves / leaves.sum(axis=1, keepdims=True))


def build_index(rows, similarity="ntvd"):
    return TreeIndex.build([rows], [f"p{i}" for i in range(len(rows))], Layout(DEPTH, similarity, True, "a" * 64))


def store_documents(folder, texts):
    write_documents([Passage(f"p{i}", text) for i, text in enumerate(texts)], folder)
    return DocumentStore(folder)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Passages of four topics, in words that all share, and one word of the topic."""
    draw = np.random.default_rng(1)
    topics = draw.integers(4, size=PASSAGES)
    texts = [f"returns the value {draw.choice(TOPICS[topic].split())} 42 ab" for topic in topics]
    documents = store_documents(tmp_path_factory.mktemp("corpus") / "documents", texts)
    return build_index(route_softly(topics)), documents, topics


@pytest.fixture(scope="module")
def explanation(corpus):
    return explain_nodes(*corpus[:2], EFFECTIVE)


def test_words_are_those_of_the_topic_however_softly_it_is_routed(explanation):
    for node, topic in zip(range(3, 7), TOPICS, strict=True):
        assert sorted(explanation.words[node]) == sorted(topic.split())
    assert explanation.words[:3] == [[], [], []]  # their children share no word
    all_words = {word for words in explanation.words for word in words}
    # No stop words, words of all passages, numbers or short words.
    assert not all_words & {"the", "returns", "value", "42", "ab"}


def test_the_average_passage_has_the_effective_nodes_wanted(corpus, explanation):
    nodes = np.concatenate([n for _, n in read_stored_sharply(corpus[0], np.arange(PASSAGES), explanation.sharpness)])
    counted = count_effective_nodes(torch.from_numpy(nodes[:, Tree(DEPTH).level(DEPTH)]))
    assert counted.mean() == pytest.approx(EFFECTIVE, rel=1e-3)
    leaves = corpus[0].read_probabilities(np.arange(5), DEPTH)
    np.testing.assert_allclose(explanation.read_sharply(leaves), nodes[:5], rtol=1e-5)


def test_more_nodes_than_the_level_has_are_the_soft_reading(corpus):
    soft = explain_nodes(*corpus[:2], 64.0)
    assert soft.sharpness == 1.0
    np.testing.assert_allclose(soft.sizes, route_softly(corpus[2]).sum(axis=0), rtol=1e-3)


def test_effective_nodes_are_counted_at_level_six_of_a_deeper_tree(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARPNESS_LEVEL", 2)
    index = TreeIndex.build([draw_nodes(80, 4, shape=5.0)], [f"p{i}" for i in range(80)], Layout(4, "ntvd", True, "a"))
    found = explain_nodes(index, store_documents(tmp_path / "documents", ["one word"] * 80), 1.5)
    nodes = sharpen(torch.from_numpy(index.read_probabilities(np.arange(80), 4)), found.sharpness)
    assert count_effective_nodes(nodes[:, Tree(4).level(2)]).mean() == pytest.approx(1.5, rel=1e-3)


@pytest.mark.parametrize("exact", [True, False])
def test_sizes_add_up(tmp_path, exact):
    rows = draw_nodes(90, DEPTH, shape=3.0)
    if not exact:  # of a learned propagation: every level by itself
        rows[:, Tree(DEPTH).level(2)] = draw_nodes(90, 2, seed=8)[:, Tree(2).level(2)]
    index = TreeIndex.build([rows], [f"p{i}" for i in range(90)], Layout(DEPTH, "ntvd", exact, "a" * 64))
    sizes = explain_nodes(index, store_documents(tmp_path / "documents", ["some text"] * 90), EFFECTIVE).sizes
    np.testing.assert_allclose(sizes[: Tree(DEPTH).splits], sizes[1::2] + sizes[2::2], rtol=1e-12)
    assert sizes[0] == pytest.approx(90, rel=1e-5)


def test_examples_are_on_the_node_and_about_its_topic(tmp_path):
    """Of passages on one node, those of its words come first, though others lie deeper in it."""
    leaves = np.full((400, 8), 0.001)
    homes = np.arange(400) % 8
    leaves[np.arange(400), homes] = 0.4
    texts = [f"{'sea' if home < 4 else 'land'} own{'abcdefgh'[home]}word other thing" for home in homes]
    odd = np.arange(0, 80)  # deepest in their leaf, with words of no node
    leaves[odd, homes[odd]] = 0.9
    for row in odd:
        texts[row] = f"remark{'abcdefghijklmnopqrst'[row // 8]} aside"
    rows = add_levels(leaves / leaves.sum(axis=1, keepdims=True))
    found = explain_nodes(build_index(rows), store_documents(tmp_path / "documents", texts), EFFECTIVE)
    for node in range(1, 15):
        assert not set(found.examples[node].tolist()) & set(odd.tolist())
        assert found.memberships[node].min() > 0.5
    for leaf in range(8):
        assert {homes[number] for number in found.examples[7 + leaf]} == {leaf}


def test_examples_begin_differently_while_there_are_such(tmp_path):
    texts = ["the same topic of the very same beginning, which is much longer than sixty characters " + "abc"[i % 3]
             for i in range(30)] + ["topic", "the topic", "same topic"]  # fmt: skip
    found = explain_nodes(
        build_index(draw_nodes(33, DEPTH, shape=5.0)), store_documents(tmp_path / "documents", texts), EFFECTIVE
    )
    for examples in found.examples[1:]:
        beginnings = [texts[number][:60] for number in examples]
        distinct = len(set(beginnings))
        assert len(set(beginnings[:distinct])) == distinct  # repeats come last
    assert any(len({texts[number][:60] for number in examples}) > 1 for examples in found.examples[1:])


def test_blocks_of_passages_do_not_matter(corpus, explanation, monkeypatch):
    monkeypatch.setattr(module, "SHARP_BLOCK", 7 * Tree(DEPTH).nodes)
    again = explain_nodes(*corpus[:2], EFFECTIVE)
    assert again.words == explanation.words and again.sharpness == pytest.approx(explanation.sharpness)
    np.testing.assert_allclose(again.sizes, explanation.sizes, rtol=1e-5)
    np.testing.assert_allclose(again.memberships, explanation.memberships, rtol=1e-4)


def test_deep_nodes_have_sizes_and_examples_without_words(corpus, explanation, monkeypatch):
    monkeypatch.setattr(module, "DEEPEST_WORD_LEVEL", 2)
    found = explain_nodes(*corpus[:2], EFFECTIVE)
    assert found.words[7:] == [[]] * 8 and all(found.words[3:7])
    np.testing.assert_allclose(found.sizes, explanation.sizes, rtol=1e-6)
    assert found.examples.shape == (15, 5)


def test_a_sample_explains_the_whole_corpus(corpus, monkeypatch):
    monkeypatch.setattr(module, "EXPLANATION_SAMPLE", 150)
    some = explain_nodes(*corpus[:2], EFFECTIVE)
    assert (some.passages, some.sampled) == (PASSAGES, 150)
    assert some.sizes[3:7].sum() == pytest.approx(PASSAGES, rel=1e-3)
    assert all(set(some.words[3 + topic]) == set(TOPICS[topic].split()) for topic in range(4))


def test_deleted_passages_are_not_read(corpus, explanation):
    _, documents, topics = corpus
    index, deleted = build_index(route_softly(topics)), explanation.examples[3].tolist()
    index.delete([f"p{number}" for number in deleted])
    remaining = explain_nodes(index, documents, EFFECTIVE)
    assert remaining.passages == PASSAGES - 5 and not set(remaining.examples[3].tolist()) & set(deleted)
    assert index.find_numbers(["p1", f"p{deleted[0]}", "none"])[1:].tolist() == [-1, -1]


def test_an_index_without_living_passages_has_an_empty_explanation(corpus):
    index = build_index(route_softly(corpus[2]))
    index.delete([f"p{i}" for i in range(PASSAGES)])
    nothing = explain_nodes(index, corpus[1], EFFECTIVE)
    assert nothing.words == [[]] * 15 and nothing.examples.shape == (15, 0) and not nothing.sizes.any()


@pytest.mark.parametrize("texts", [["1 2 3", "", "the and"], ["one lonely passage of words"]])
def test_texts_without_characteristic_words(tmp_path, texts):
    rows = draw_nodes(len(texts), DEPTH)
    found = explain_nodes(build_index(rows), store_documents(tmp_path / "documents", texts), EFFECTIVE)
    assert found.words == [[]] * 15 and found.examples.shape == (15, len(texts))
    for node in range(1, 15):  # without words, the most probable passage is the most typical
        assert (np.diff(found.memberships[node]) <= 0).all()


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_an_index_returns_the_probabilities_it_was_given(similarity, exact):
    rows = draw_nodes(70, DEPTH)
    index = TreeIndex.build([rows], [f"p{i}" for i in range(70)], Layout(DEPTH, similarity, exact, "a" * 64))
    index.add(draw_nodes(2, DEPTH, seed=5), ["later", "last"])
    index.delete(["p3", "later"])
    numbers = index.find_numbers(["p7", "last", "p2"])
    rows = np.concatenate([rows, draw_nodes(2, DEPTH, seed=5)])[numbers]
    for level in range(DEPTH + 1):
        np.testing.assert_allclose(
            index.read_probabilities(numbers, level), rows[:, Tree(DEPTH).level(level)], atol=1e-6
        )
    assert not index.read_probabilities(np.array([99]), 2).any()
    assert index.list_numbers().tolist() == [n for n in range(72) if n not in (3, 70)]


def test_an_explanation_is_saved_and_loaded(tmp_path, corpus, explanation, monkeypatch):
    index, documents, _ = corpus
    first = load_or_explain(index, documents, tmp_path / "explanation", EFFECTIVE)
    monkeypatch.setattr(module, "explain_nodes", lambda *_: pytest.fail("explained again"))
    for again in (first, load_or_explain(index, documents, tmp_path / "explanation", EFFECTIVE)):
        assert again.words == explanation.words and (again.passages, again.sampled) == (PASSAGES, PASSAGES)
        assert again.sharpness == explanation.sharpness
        for name in ("sizes", "examples", "memberships"):
            np.testing.assert_array_equal(getattr(again, name), getattr(explanation, name))
    assert {path.suffix for path in (tmp_path / "explanation").iterdir()} == {".json", ".npy"}


def test_a_damaged_or_foreign_explanation_is_computed_again(tmp_path, corpus, explanation):
    index, documents, _ = corpus
    folder = tmp_path / "explanation"
    explanation.save(folder, "b" * 64)
    with pytest.raises(BundleError, match="another model"):
        Explanation.load(folder, "a" * 64)
    assert load_or_explain(index, documents, folder, EFFECTIVE).words == explanation.words
    assert Explanation.load(folder, "a" * 64).words == explanation.words
    (folder / "words.json").write_text("[]")
    assert load_or_explain(index, documents, folder, EFFECTIVE).words == explanation.words
    assert Explanation.load(folder, "a" * 64).words == explanation.words


def test_an_explanation_by_the_soft_reading_of_an_earlier_version_is_computed_again(tmp_path, corpus, explanation):
    index, documents, _ = corpus
    folder = tmp_path / "explanation"
    explanation.save(folder, "a" * 64)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sharpness"]
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))
    assert load_or_explain(index, documents, folder, EFFECTIVE).sharpness == explanation.sharpness
    assert Explanation.load(folder, "a" * 64).sharpness == explanation.sharpness


def test_an_unwritable_folder_raises_no_error(tmp_path, corpus, explanation):
    longest = tmp_path / ("x" * 255)  # a temporary name would be too long
    assert load_or_explain(*corpus[:2], longest, EFFECTIVE).words == explanation.words and not longest.exists()


def test_every_node_word_is_of_the_vocabulary(corpus, explanation):
    terms, _ = node_words.extract_word_presence([corpus[1][i].full_text for i in range(PASSAGES)])
    assert {word for words in explanation.words for word in words} <= set(terms.tolist())


@pytest.mark.parametrize("sharpness", [1.0, 7.5, 1e4])
def test_the_sharp_reading_without_torch_is_that_of_the_model(explanation, sharpness):
    draw = np.random.default_rng(2)
    leaves = draw.dirichlet(np.full(8, 0.3), size=50).astype(np.float32)
    leaves[0], leaves[1, :4], leaves[2] = 0.125, 0, np.eye(8)[3]
    sharp = dataclasses.replace(explanation, sharpness=sharpness).read_sharply(leaves)
    np.testing.assert_allclose(sharp, sharpen(torch.from_numpy(leaves), sharpness), rtol=2e-3, atol=1e-6)

"""What the nodes of a tree mean: words by correlation, sizes, examples, and each node's part in a similarity."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from retreever.bundle import node_explanation as module
from retreever.bundle.document_store import DocumentStore, write_documents
from retreever.bundle.node_explanation import (
    Explanation,
    compute_agreement,
    correlate_words,
    explain_nodes,
    load_or_explain,
)
from retreever.data.dataset import Passage
from retreever.errors import BundleError
from retreever.index import Layout, TreeIndex
from retreever.model.tree import Tree
from tests.support.nodes import add_levels, draw_nodes

DEPTH, PASSAGES = 3, 400
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
    return explain_nodes(*corpus[:2])


def test_words_are_those_of_the_topic_however_softly_it_is_routed(explanation):
    for node, topic in zip(range(3, 7), TOPICS, strict=True):
        assert sorted(explanation.words[node][:3]) == sorted(topic.split())
    for node, topics in ((1, TOPICS[:2]), (2, TOPICS[2:])):
        assert set(explanation.words[node]) == set(" ".join(topics).split())
    assert explanation.words[0] == []
    all_words = {word for words in explanation.words for word in words}
    # No stop words, words of all passages, numbers or short words.
    assert not all_words & {"the", "returns", "value", "42", "ab"}


def test_correlations_are_pearson():
    present = (np.random.default_rng(0).random((50, 6)) < 0.3).astype(np.float32)
    present[:, 5] = 1
    probabilities = draw_nodes(50, DEPTH)
    fast = correlate_words(csr_matrix(present), probabilities[:, 1:])
    for word in range(5):
        for node in range(14):
            expected = np.corrcoef(present[:, word], probabilities[:, 1 + node])[0, 1]
            assert fast[word, node] == pytest.approx(expected, abs=1e-4)
    assert not fast[5].any()


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["nodes", "node", "nodeless"], ["nodes", "nodeless"]),
        (["art", "arts", "article", "ar"], ["art", "article", "ar"]),
        ([f"{letter}word" for letter in "abcdefghij"], [f"{letter}word" for letter in "abcdefgh"]),
    ],
)
def test_a_word_is_named_in_one_form(words, kept):
    assert module._drop_word_forms(words) == kept


def test_sizes_of_a_level_sum_to_the_corpus_and_examples_are_the_most_probable(corpus, explanation):
    rows = route_softly(corpus[2])
    for level in range(DEPTH + 1):
        assert explanation.sizes[Tree(DEPTH).level(level)].sum() == pytest.approx(PASSAGES, rel=1e-3)
    np.testing.assert_allclose(explanation.sizes, rows.sum(axis=0), rtol=1e-3)
    assert explanation.examples.shape == explanation.memberships.shape == (15, 5)
    np.testing.assert_allclose(explanation.memberships, -np.sort(-rows, axis=0)[:5].T, atol=1e-5)
    probabilities = np.take_along_axis(rows, explanation.examples.T, axis=0).T
    np.testing.assert_allclose(probabilities, explanation.memberships, atol=1e-5)


def test_blocks_of_nodes_and_chunks_of_passages_do_not_matter(corpus, explanation, monkeypatch):
    monkeypatch.setattr(module, "NODE_BLOCK", 3)
    monkeypatch.setattr(module, "PASSAGE_CHUNK", 7)
    again = explain_nodes(*corpus[:2])
    assert [sorted(words) for words in again.words] == [sorted(words) for words in explanation.words]
    np.testing.assert_allclose(again.sizes, explanation.sizes, rtol=1e-5)


def test_a_sample_explains_the_whole_corpus(corpus, monkeypatch):
    monkeypatch.setattr(module, "EXPLANATION_SAMPLE", 150)
    some = explain_nodes(*corpus[:2])
    assert (some.passages, some.sampled) == (PASSAGES, 150)
    assert some.sizes[3:7].sum() == pytest.approx(PASSAGES, rel=1e-3)
    assert all(set(some.words[3 + topic][:3]) == set(TOPICS[topic].split()) for topic in range(4))


def test_deleted_passages_are_not_read(corpus, explanation):
    _, documents, topics = corpus
    index, deleted = build_index(route_softly(topics)), explanation.examples[3].tolist()
    index.delete([f"p{number}" for number in deleted])
    remaining = explain_nodes(index, documents)
    assert remaining.passages == PASSAGES - 5 and not set(remaining.examples[3].tolist()) & set(deleted)
    assert index.find_numbers(["p1", f"p{deleted[0]}", "none"])[1:].tolist() == [-1, -1]


def test_an_index_without_living_passages_has_an_empty_explanation(corpus):
    index = build_index(route_softly(corpus[2]))
    index.delete([f"p{i}" for i in range(PASSAGES)])
    nothing = explain_nodes(index, corpus[1])
    assert nothing.words == [[]] * 15 and nothing.examples.shape == (15, 0) and not nothing.average.any()


@pytest.mark.parametrize("texts", [["1 2 3", "", "the and"], ["one lonely passage of words"]])
def test_texts_without_characteristic_words(tmp_path, texts):
    explanation = explain_nodes(
        build_index(draw_nodes(len(texts), DEPTH)), store_documents(tmp_path / "documents", texts)
    )
    assert explanation.words == [[]] * 15 and explanation.examples.shape == (15, len(texts))


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("level", [1, 2, 3])
def test_contributions_of_nodes_sum_to_the_similarity(similarity, level):
    index, query = build_index(draw_nodes(50, DEPTH), similarity), draw_nodes(1, DEPTH, seed=9)
    numbers, scores = index.search(query, 5, level)
    parts = compute_agreement(
        index.layout, query[:, Tree(DEPTH).level(level)], index.read_probabilities(numbers[0], level)
    )
    assert parts.shape == (5, 2**level)
    np.testing.assert_allclose(parts.sum(axis=1) - (similarity == "ntvd"), scores[0], atol=1e-5)


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
    first = load_or_explain(index, documents, tmp_path / "explanation")
    monkeypatch.setattr(module, "explain_nodes", lambda *_: pytest.fail("explained again"))
    for again in (first, load_or_explain(index, documents, tmp_path / "explanation")):
        assert again.words == explanation.words and (again.passages, again.sampled) == (PASSAGES, PASSAGES)
        for name in ("sizes", "examples", "memberships"):
            np.testing.assert_array_equal(getattr(again, name), getattr(explanation, name))
    assert {path.suffix for path in (tmp_path / "explanation").iterdir()} == {".json", ".npy"}


def test_a_damaged_or_foreign_explanation_is_computed_again(tmp_path, corpus, explanation):
    index, documents, _ = corpus
    explanation.save(tmp_path / "explanation", "b" * 64)
    with pytest.raises(BundleError, match="another model"):
        Explanation.load(tmp_path / "explanation", "a" * 64)
    assert load_or_explain(index, documents, tmp_path / "explanation").words == explanation.words
    assert Explanation.load(tmp_path / "explanation", "a" * 64).words == explanation.words
    (tmp_path / "explanation" / "words.json").write_text("[]")
    assert load_or_explain(index, documents, tmp_path / "explanation").words == explanation.words
    assert Explanation.load(tmp_path / "explanation", "a" * 64).words == explanation.words


def test_an_unwritable_folder_raises_no_error(tmp_path, corpus, explanation):
    longest = tmp_path / ("x" * 255)  # a temporary name would be too long
    assert load_or_explain(*corpus[:2], longest).words == explanation.words and not longest.exists()

"""What the nodes of a tree mean: words by correlation, sizes, examples, and what a similarity is made of."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from retreever.bundle import node_explanation as module
from retreever.bundle.document_store import Documents, write_documents
from retreever.bundle.node_explanation import Explanation, agreement, correlations, explain, explanation_of
from retreever.data.dataset import Passage
from retreever.errors import BundleError
from retreever.index import Layout, TreeIndex
from retreever.model.tree import Tree
from tests.support.nodes import full, nodes

DEPTH, PASSAGES = 3, 400
TOPICS = ("array shape axis", "socket port listen", "parse token grammar", "plot colour legend")
SIMILARITIES = ("ntvd", "bhattacharyya")


def softly(topics):
    """Node probabilities of passages that lean a little, by .02 of each leaf, to the two leaves of their topic."""
    draw = np.random.default_rng(0)
    leaves = np.full((len(topics), 8), 0.125) + 0.01 * draw.random((len(topics), 8))
    for leaf in (0, 1):
        leaves[np.arange(len(topics)), 2 * topics + leaf] += 0.02
    return full(leaves / leaves.sum(axis=1, keepdims=True))


def index_of(rows, similarity="ntvd"):
    return TreeIndex.build([rows], [f"p{i}" for i in range(len(rows))], Layout(DEPTH, similarity, True, "a" * 64))


def documents_in(folder, texts):
    write_documents([Passage(f"p{i}", text) for i, text in enumerate(texts)], folder)
    return Documents(folder)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Passages of four topics, in words that all of them share and one word of their own."""
    draw = np.random.default_rng(1)
    topics = draw.integers(4, size=PASSAGES)
    texts = [f"returns the value {draw.choice(TOPICS[topic].split())} 42 ab" for topic in topics]
    return index_of(softly(topics)), documents_in(tmp_path_factory.mktemp("corpus") / "documents", texts), topics


@pytest.fixture(scope="module")
def found(corpus):
    return explain(*corpus[:2])


def test_words_are_those_of_the_topic_however_softly_it_is_routed(found):
    for node, topic in zip(range(3, 7), TOPICS, strict=True):
        assert sorted(found.words[node][:3]) == sorted(topic.split())
    for node, topics in ((1, TOPICS[:2]), (2, TOPICS[2:])):
        assert set(found.words[node]) == set(" ".join(topics).split())
    assert found.words[0] == []
    told = {word for words in found.words for word in words}
    assert not told & {"the", "returns", "value", "42", "ab"}  # stop words, words of all passages, numbers, short ones


def test_correlations_are_pearson():
    present = (np.random.default_rng(0).random((50, 6)) < 0.3).astype(np.float32)
    present[:, 5] = 1
    probabilities = nodes(50, DEPTH)
    fast = correlations(csr_matrix(present), probabilities[:, 1:])
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
def test_forms_of_one_word_are_told_once(words, kept):
    assert module._different(words) == kept


def test_sizes_of_a_level_sum_to_the_corpus_and_examples_are_the_most_probable(corpus, found):
    rows = softly(corpus[2])
    for level in range(DEPTH + 1):
        assert found.sizes[Tree(DEPTH).level(level)].sum() == pytest.approx(PASSAGES, rel=1e-3)
    np.testing.assert_allclose(found.sizes, rows.sum(axis=0), rtol=1e-3)
    assert found.examples.shape == found.memberships.shape == (15, 5)
    np.testing.assert_allclose(found.memberships, -np.sort(-rows, axis=0)[:5].T, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(rows, found.examples.T, axis=0).T, found.memberships, atol=1e-5)


def test_blocks_of_nodes_and_chunks_of_passages_do_not_matter(corpus, found, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 3)
    monkeypatch.setattr(module, "CHUNK", 7)
    again = explain(*corpus[:2])
    assert [sorted(words) for words in again.words] == [sorted(words) for words in found.words]
    np.testing.assert_allclose(again.sizes, found.sizes, rtol=1e-5)


def test_a_sample_tells_of_the_whole_corpus(corpus, monkeypatch):
    monkeypatch.setattr(module, "SAMPLE", 150)
    some = explain(*corpus[:2])
    assert (some.passages, some.sampled) == (PASSAGES, 150)
    assert some.sizes[3:7].sum() == pytest.approx(PASSAGES, rel=1e-3)
    assert all(set(some.words[3 + topic][:3]) == set(TOPICS[topic].split()) for topic in range(4))


def test_deleted_passages_are_not_read(corpus, found):
    _, documents, topics = corpus
    without = index_of(softly(topics))
    without.delete([f"p{number}" for number in found.examples[3].tolist()])
    left = explain(without, documents)
    assert left.passages == PASSAGES - 5 and not set(left.examples[3].tolist()) & set(found.examples[3].tolist())
    assert without.find(["p1", f"p{found.examples[3, 0]}", "none"])[1:].tolist() == [-1, -1]


def test_an_index_of_which_all_is_deleted_has_nothing_to_tell(corpus):
    index = index_of(softly(corpus[2]))
    index.delete([f"p{i}" for i in range(PASSAGES)])
    nothing = explain(index, corpus[1])
    assert nothing.words == [[]] * 15 and nothing.examples.shape == (15, 0) and not nothing.average.any()


@pytest.mark.parametrize("texts", [["1 2 3", "", "the and"], ["one lonely passage of words"]])
def test_texts_without_words_that_tell_anything(tmp_path, texts):
    found = explain(index_of(nodes(len(texts), DEPTH)), documents_in(tmp_path / "documents", texts))
    assert found.words == [[]] * 15 and found.examples.shape == (15, len(texts))


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("level", [1, 2, 3])
def test_what_a_similarity_is_made_of_sums_to_it(similarity, level):
    index, query = index_of(nodes(50, DEPTH), similarity), nodes(1, DEPTH, seed=9)
    numbers, scores = index.search(query, 5, level)
    parts = agreement(index.layout, query[:, Tree(DEPTH).level(level)], index.probabilities(numbers[0], level))
    assert parts.shape == (5, 2**level)
    np.testing.assert_allclose(parts.sum(axis=1) - (similarity == "ntvd"), scores[0], atol=1e-5)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_an_index_gives_back_what_it_was_given(similarity, exact):
    rows = nodes(70, DEPTH)
    index = TreeIndex.build([rows], [f"p{i}" for i in range(70)], Layout(DEPTH, similarity, exact, "a" * 64))
    index.add(nodes(2, DEPTH, seed=5), ["later", "last"])
    index.delete(["p3", "later"])
    numbers = index.find(["p7", "last", "p2"])
    rows = np.concatenate([rows, nodes(2, DEPTH, seed=5)])[numbers]
    for level in range(DEPTH + 1):
        np.testing.assert_allclose(index.probabilities(numbers, level), rows[:, Tree(DEPTH).level(level)], atol=1e-6)
    assert not index.probabilities(np.array([99]), 2).any()
    assert index.living().tolist() == [n for n in range(72) if n not in (3, 70)]


def test_it_is_kept_and_comes_back(tmp_path, corpus, found, monkeypatch):
    index, documents, _ = corpus
    made = explanation_of(index, documents, tmp_path / "explanation")
    monkeypatch.setattr(module, "explain", lambda *_: pytest.fail("made again"))
    for again in (made, explanation_of(index, documents, tmp_path / "explanation")):
        assert again.words == found.words and (again.passages, again.sampled) == (PASSAGES, PASSAGES)
        for name in ("sizes", "examples", "memberships"):
            np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert {path.suffix for path in (tmp_path / "explanation").iterdir()} == {".json", ".npy"}


def test_what_is_damaged_or_of_another_model_is_made_again(tmp_path, corpus, found):
    index, documents, _ = corpus
    found.save(tmp_path / "explanation", "b" * 64)
    with pytest.raises(BundleError, match="another model"):
        Explanation.load(tmp_path / "explanation", "a" * 64)
    assert explanation_of(index, documents, tmp_path / "explanation").words == found.words
    assert Explanation.load(tmp_path / "explanation", "a" * 64).words == found.words
    (tmp_path / "explanation" / "words.json").write_text("[]")
    assert explanation_of(index, documents, tmp_path / "explanation").words == found.words
    assert Explanation.load(tmp_path / "explanation", "a" * 64).words == found.words


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path, corpus, found):
    longest = tmp_path / ("x" * 255)  # and what is written aside would have a longer name
    assert explanation_of(*corpus[:2], longest).words == found.words and not longest.exists()

"""Words of nodes: correlation, contrast with the sibling, words that children share, one form, none twice on a path."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from retreever.bundle.nodes import node_words as module
from retreever.bundle.nodes.node_words import (
    WordCounts,
    choose_node_words,
    extract_word_presence,
    find_base_form,
    make_node_profiles,
)
from retreever.model.tree import Tree
from tests.support.nodes import add_levels, draw_nodes

DEPTH = 3


def count_words(present, nodes, level=DEPTH, chunk=37):
    counts = WordCounts(present.shape[1], level)
    for start in range(0, len(nodes), chunk):
        counts.add(present[start : start + chunk], nodes[start : start + chunk])
    return counts


def draw_presence(passages=300, words=6, share=0.3):
    present = (np.random.default_rng(0).random((passages, words)) < share).astype(np.float32)
    present[:, words - 1] = 1
    return present


def put_on_leaves(leaves):
    """Node probabilities of passages that lie on one leaf each."""
    return add_levels(np.eye(2**DEPTH)[leaves])


def name_nodes(texts, leaves):
    terms, present = extract_word_presence(texts)
    return choose_node_words(terms, count_words(present, put_on_leaves(leaves)))


@pytest.mark.parametrize("level", [2, DEPTH])
def test_correlations_are_pearson_at_every_level(level):
    present, nodes = draw_presence(), draw_nodes(300, DEPTH)
    counts = count_words(csr_matrix(present), nodes, level)
    for d in range(1, level + 1):
        fast = counts.correlate(counts.read_level(d), Tree(DEPTH).level(d))
        for word in range(5):
            for column, node in enumerate(range(2**d - 1, 2 ** (d + 1) - 1)):
                expected = np.corrcoef(present[:, word], nodes[:, node])[0, 1]
                assert fast[word, column] == pytest.approx(expected, abs=1e-4)
        assert not fast[5].any()


def test_counts_of_a_parent_are_the_sum_of_its_children():
    counts = count_words(csr_matrix(draw_presence()), draw_nodes(300, DEPTH))
    for d in range(DEPTH):
        below = counts.read_level(d + 1)
        np.testing.assert_allclose(counts.read_level(d), below[:, 0::2] + below[:, 1::2], rtol=1e-4)


def test_a_parent_has_the_words_that_its_children_share():
    leaves = np.arange(800) % 8
    shared = ["sea", "land"]  # of the two halves of the tree
    texts = [f"{shared[leaf // 4]} leaf{'abcdefgh'[leaf]}word everywhere" for leaf in leaves]
    words = name_nodes(texts, leaves)
    assert words[1] == ["sea"] and words[2] == ["land"]  # no word that one grandchild alone has
    for leaf in range(8):
        assert words[7 + leaf] == [f"leaf{'abcdefgh'[leaf]}word"]


def test_a_word_that_the_sibling_has_as_often_is_not_chosen():
    leaves = np.arange(800) % 8
    texts = [("common " if leaf < 2 else "") + f"own{'abcdefgh'[leaf]}word" for leaf in leaves]
    words = name_nodes(texts, leaves)
    assert "common" not in words[7] + words[8]
    assert words[3] == ["common"] and words[1] == []  # of node 1, one child alone has it


def test_no_word_is_twice_on_a_path_in_any_form():
    draw = np.random.default_rng(3)
    vocabulary = [f"{first}{last}" for first in ("read", "node", "graph", "plot", "file") for last in ("", "s", "er")]
    leaves = np.arange(1600) % 8
    texts = [" ".join(vocabulary[i] for i in draw.integers(15, size=3)) + f" {vocabulary[leaf]}" for leaf in leaves]
    words = name_nodes(texts, leaves)
    assert sum(map(len, words)) >= 5
    for node in range(1, 15):
        path, above = list(words[node]), (node - 1) // 2
        while above:
            path += words[above]
            above = (above - 1) // 2
        pairs = [(a, b) for i, a in enumerate(path) for b in path[i + 1 :]]
        assert not [pair for pair in pairs if module.are_word_forms(*pair)]


def test_a_word_must_be_frequent_within_the_node(monkeypatch):
    leaves = np.arange(4000) % 8
    texts = [
        f"own{'abcdefgh'[leaf]}word" + (" seldom" if i < 40 and leaf == 0 else "") for i, leaf in enumerate(leaves)
    ]
    monkeypatch.setattr(module, "MIN_PASSAGES_PER_WORD", 1)
    assert name_nodes(texts, leaves)[7] == ["ownaword"]  # 5 of 500 passages have the other
    monkeypatch.setattr(module, "MIN_WORD_SHARE", 0.001)
    monkeypatch.setattr(module, "CLEAR_STANDARD_ERRORS", 1)
    assert name_nodes(texts, leaves)[7] == ["ownaword", "seldom"]


def test_forms_are_one_word_under_the_most_frequent_form():
    texts = ["nodes", "nodes edge", "nodes edges", "edges", "parsing", "parse", "parsed parse", "string"]
    terms, present = extract_word_presence(texts * 3)
    shown = dict(zip(terms.tolist(), present.toarray().T, strict=True))
    assert set(shown) == {"nodes", "edges", "parse", "string"}
    assert shown["edges"][:8].tolist() == [0, 1, 1, 1, 0, 0, 0, 0] and shown["parse"][:8].sum() == 3
    assert set(np.unique(present.data)) == {1}


@pytest.mark.parametrize(
    ("word", "base"),
    [
        ("classes", "class"), ("queries", "query"), ("running", "running"), ("stopped", "stop"), ("used", "used"),
        ("news", "news"), ("caches", "cache"), ("boxes", "box"), ("process", "process"), ("readings", "read"),
    ],
)  # fmt: skip
def test_base_forms(word, base):
    known = {"class", "query", "run", "stop", "use", "new", "cache", "box", "proces", "read", "reading"}
    assert find_base_form(word, known) == base


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["nodes", "node", "nodeless"], ["nodes", "nodeless"]),
        (["art", "arts", "article", "ar"], ["art", "article", "ar"]),
        ([f"{letter}word" for letter in "abcdefghij"], [f"{letter}word" for letter in "abcdefgh"]),
    ],
)
def test_a_node_has_a_word_in_one_form_and_no_more_than_eight(words, kept):
    scores = np.linspace(1, 0.1, len(words))
    assert module._pick_words(np.array(words, object), scores, []) == kept
    assert not set(kept) & set(module._pick_words(np.array(words, object), scores, kept))


def test_a_profile_holds_the_clearest_words_of_a_node(monkeypatch):
    monkeypatch.setattr(module, "PROFILE_WORDS", 2)
    leaves = np.arange(800) % 8
    texts = [f"{'sea' if leaf < 4 else 'land'} leaf{'abcdefgh'[leaf]}word everywhere" for leaf in leaves]
    terms, present = extract_word_presence(texts)
    profiles = make_node_profiles(count_words(present, put_on_leaves(leaves))).toarray()
    assert not profiles[:, 0].any()
    np.testing.assert_allclose((profiles**2).sum(axis=0)[1:], 1, rtol=1e-5)
    assert set(terms[profiles[:, 7] > 0]) == {"sea", "leafaword"}  # the ancestor's word too
    assert terms[profiles[:, 7].argmax()] == "leafaword"


@pytest.mark.parametrize("texts", [["1 2 3", "", "the and"], []])
def test_texts_without_words_have_no_vocabulary(texts):
    terms, present = extract_word_presence(texts)
    assert len(terms) == 0 and present is None


def test_blocks_of_nodes_do_not_matter(monkeypatch):
    present, nodes = draw_presence(words=20), draw_nodes(300, DEPTH)
    monkeypatch.setattr(module, "CLEAR_STANDARD_ERRORS", 0.5)
    terms = np.array([f"word{'abcdefghijklmnopqrst'[i]}xyz" for i in range(20)], object)
    counts = count_words(csr_matrix(present), nodes)
    whole = choose_node_words(terms, counts), make_node_profiles(counts).toarray()
    monkeypatch.setattr(module, "NODE_BLOCK", 2)
    assert choose_node_words(terms, counts) == whole[0] and any(whole[0])
    np.testing.assert_array_equal(make_node_profiles(counts).toarray(), whole[1])

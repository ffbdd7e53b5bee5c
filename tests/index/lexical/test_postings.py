"""Posting lists against a dictionary."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from retreever.index.kernels.posting_kernels import DENSE_COUNT, find_block_maxima
from retreever.index.kernels.similarity_kernels import BLOCK_PASSAGES
from retreever.index.lexical.postings import PassageWords, join_words, make_postings


def draw_words(passages, terms, share, seed):
    """Random impacts, (passages, terms) with zeros, and the same as words; term t has the value 7 t."""
    draw = np.random.default_rng(seed)
    impacts = draw.integers(1, 256, (passages, terms)) * (draw.random((passages, terms)) < share)
    rows, own = np.nonzero(impacts)
    shuffled = draw.permutation(len(rows))
    rows, own = rows[shuffled], own[shuffled]
    return impacts, PassageWords((7 * own).astype(np.uint64), rows, impacts[rows, own].astype(np.uint8))


@settings(deadline=None, max_examples=40)
@given(
    passages=st.integers(1, 700), share=st.sampled_from([0.0, 0.01, 0.4, 0.49, 0.51, 0.6, 1.0]), seed=st.integers(0, 99)
)
def test_sums_and_words_are_those_that_went_in(passages, share, seed):
    impacts, words = draw_words(passages, 5, share, seed)
    places = np.random.default_rng(seed).permutation(-(-passages // BLOCK_PASSAGES) * BLOCK_PASSAGES)[:passages]
    postings = make_postings(words, places)
    found = postings.find_terms(np.uint64([14, 3, 0, 999, 28]))
    assert postings.count_passages(found).tolist() == [*((impacts[:, [2]] > 0).sum(0)), 0, (impacts[:, 0] > 0).sum(), 0,
                                                       (impacts[:, 4] > 0).sum()]  # fmt: skip
    weights = np.float32([0.1, 5, 0.7, 9, 1.3])
    added = np.zeros(-(-passages // BLOCK_PASSAGES) * BLOCK_PASSAGES, np.float32)
    postings.add_scores(found, weights, added)
    twin = np.zeros(passages, np.float32)
    for term, weight in ((2, weights[0]), (0, weights[2]), (4, weights[4])):
        twin += weight * impacts[:, term].astype(np.float32)
    assert np.array_equal(added[places], twin) and np.count_nonzero(added) == np.count_nonzero(twin)

    rows = np.full(len(added), -1)
    rows[places] = np.arange(passages)
    back = postings.list_words(rows)
    again = np.zeros_like(impacts)
    again[back.rows, (back.terms // 7).astype(int)] = back.impacts
    assert np.array_equal(again, impacts) and len(back.rows) == len(words.rows)


def test_lists_are_compressed():
    for share, most in ((0.01, 6.1), (0.4, 2.1), (1.0, 1.1)):  # bytes a posting
        _, words = draw_words(256 * 20, 3, share, 0)
        postings = make_postings(words, np.arange(256 * 20))
        assert postings.nbytes - 3 * 28 < most * len(words.rows)
        assert (postings.counts <= DENSE_COUNT).all()


def test_parts_are_joined_in_their_order():
    parts = [draw_words(10, 2, 0.5, seed)[1] for seed in (0, 1)]
    joined = join_words(parts)
    assert joined.rows.tolist() == [*parts[0].rows, *parts[1].rows] and joined.impacts.dtype == np.uint8


def test_the_largest_scores_of_blocks_agree_with_their_twin():
    added = np.random.default_rng(0).random((3, 4 * BLOCK_PASSAGES), np.float32)
    maxima = np.empty((3, 4), np.float32)
    find_block_maxima(added, maxima)
    assert np.array_equal(maxima, added.reshape(3, 4, -1).max(axis=2))

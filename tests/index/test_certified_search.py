"""Certified search against a sort of all similarities, in indexes large enough to have codes."""

import numpy as np
import pytest

from retreever.index import Layout, TreeIndex
from retreever.index.search.certified_search import score_segment
from retreever.model.tree import Tree
from tests.support.nodes import add_levels, draw_clustered, draw_nodes

DEPTH, ROWS = 7, 5_000


def make_layout(similarity, dtype="float32", hierarchy=True):
    return Layout(DEPTH, similarity, hierarchy, "a" * 64, dtype)


def make_ids(rows):
    return [f"d{i}" for i in np.random.default_rng(4).permutation(rows)]


def rank_all(index, query, k, level, alive=None):
    """Numbers and scores of the k best, from all similarities in float32; ties by id."""
    vector = index.layout.to_stored_form(query[None, Tree(index.layout.depth).level(level)])[0]
    ids, scores, numbers = [], [], []
    for view in index._state.views:
        every = score_segment(vector, level, view.segment, index.layout)
        for row in np.flatnonzero(view.rows_alive):
            if alive is None or alive[view.segment.numbers[row]]:
                ids.append(view.segment.ids[int(row)])
                scores.append(every[row])
                numbers.append(view.segment.numbers[row])
    order = np.lexsort((np.array(ids), -np.array(scores)))[:k]
    return np.array(numbers)[order], np.array(scores)[order]


def assert_exact(index, queries, k, level, **options):
    numbers, scores = index.search(queries, k, level, **options)
    for i, query in enumerate(queries):
        expected = rank_all(index, query, k, level, options.get("where"))
        assert numbers[i].tolist() == expected[0].tolist() and np.array_equal(scores[i], expected[1])


@pytest.mark.parametrize("draw_rows", [draw_clustered, draw_nodes], ids=["clustered", "unstructured"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("similarity", ["ntvd", "bhattacharyya"])
def test_every_level_and_size_is_exact(similarity, dtype, draw_rows):
    index = TreeIndex.build([draw_rows(ROWS, DEPTH)], make_ids(ROWS), make_layout(similarity, dtype))
    queries = draw_rows(4, DEPTH, seed=1)
    for level in range(1, DEPTH + 1):
        for k in (1, 10, 100):
            assert_exact(index, queries, k, level)


@pytest.mark.parametrize("similarity", ["ntvd", "bhattacharyya"])
def test_every_level_is_exact_without_a_hierarchy(similarity):
    passages, queries = draw_clustered(ROWS, DEPTH), draw_clustered(4, DEPTH, seed=1)
    for rows, seed in ((passages, 7), (queries, 8)):
        other = draw_clustered(len(rows), DEPTH, seed)
        rows[:, Tree(DEPTH).level(5)] = other[:, Tree(DEPTH).level(5)]  # no longer the sum of its children
    index = TreeIndex.build([passages], make_ids(ROWS), make_layout(similarity, hierarchy=False))
    for level in range(1, DEPTH + 1):
        assert_exact(index, queries, 10, level)
        vectors = index.layout.to_stored_form(passages[:, Tree(DEPTH).level(level)]).astype(np.float64)
        query = index.layout.to_stored_form(queries[:1, Tree(DEPTH).level(level)])[0].astype(np.float64)
        every = vectors @ query if similarity == "bhattacharyya" else np.minimum(vectors, query).sum(axis=1) - 1
        np.testing.assert_allclose(index.search(queries[:1], 10, level)[1][0], np.sort(every)[::-1][:10], atol=2e-6)


@pytest.mark.parametrize("similarity", ["ntvd", "bhattacharyya"])
def test_thousands_of_equal_passages(similarity):
    distinct = draw_clustered(6, DEPTH)
    index = TreeIndex.build([distinct[np.arange(ROWS) % 6]], make_ids(ROWS), make_layout(similarity))
    assert_exact(index, distinct[:2], 50, DEPTH)
    assert_exact(index, distinct[:2], 50, 1)


def test_sharp_passages_on_single_leaves():
    leaves = np.zeros((ROWS, 2**DEPTH), np.float32)
    leaves[np.arange(ROWS), np.random.default_rng(0).integers(2**DEPTH, size=ROWS)] = 1
    for similarity in ("ntvd", "bhattacharyya"):
        index = TreeIndex.build([add_levels(leaves)], make_ids(ROWS), make_layout(similarity))
        assert_exact(index, add_levels(leaves)[:3], 40, DEPTH)
        assert_exact(index, draw_clustered(2, DEPTH), 40, DEPTH)


@pytest.mark.parametrize("similarity", ["ntvd", "bhattacharyya"])
def test_the_evidence_holds(similarity):
    index = TreeIndex.build([draw_clustered(ROWS, DEPTH)], make_ids(ROWS), make_layout(similarity))
    queries = draw_clustered(6, DEPTH, seed=1)
    numbers, scores, evidence = index.search(queries, 10, certify=True)
    for i, own in enumerate(evidence):
        assert own.kth == scores[i, -1] and own.bound <= own.kth
        assert own.scanned >= ROWS and own.scored < ROWS / 2
        excluded = rank_all(index, queries[i], ROWS, DEPTH)[1][own.scored :]
        assert (excluded <= max(own.bound, own.kth)).all()
    assert np.array_equal(numbers, index.search(queries, 10)[0])


@pytest.mark.parametrize("share", [0.001, 0.3, 1.0])
@pytest.mark.parametrize("similarity", ["ntvd", "bhattacharyya"])
def test_a_filter_limits_the_answer(similarity, share):
    index = TreeIndex.build([draw_clustered(ROWS, DEPTH)], make_ids(ROWS), make_layout(similarity))
    queries = draw_clustered(3, DEPTH, seed=1)
    mask = np.random.default_rng(1).random(ROWS) < share
    assert_exact(index, queries, 10, DEPTH, where=mask)
    by_id = index.search(queries, 10, where=index.find_ids(np.flatnonzero(mask)))
    assert np.array_equal(by_id[0], index.search(queries, 10, where=mask)[0])


def test_a_filter_that_does_not_fit_is_refused():
    index = TreeIndex.build([draw_nodes(5)], make_ids(5), Layout(4, "ntvd", True, "m"))
    with pytest.raises(ValueError, match=r"where: must be ids or a bool for each of 5 numbers, got \(4,\) of bool"):
        index.search(draw_nodes(1), 1, where=np.ones(4, bool))
    with pytest.raises(ValueError, match="ids: the index has no 'x'"):
        index.search(draw_nodes(1), 1, where=["d1", "x"])
    numbers, scores = index.search(draw_nodes(2), 3, where=np.zeros(5, bool))
    assert numbers.shape == scores.shape == (2, 0)


def test_threads_do_not_matter():
    index = TreeIndex.build([draw_clustered(ROWS, DEPTH)], make_ids(ROWS), make_layout("bhattacharyya"))
    queries = draw_clustered(20, DEPTH, seed=1)
    one, many = index.search(queries, 10, threads=1), index.search(queries, 10, threads=4)
    assert all(np.array_equal(a, b) for a, b in zip(one, many, strict=True))

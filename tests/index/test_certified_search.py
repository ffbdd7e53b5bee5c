"""Certified search against every similarity, in indexes large enough to have codes."""

import numpy as np
import pytest

from retreever.index import Layout, TreeIndex
from retreever.index.search.certified_search import every_score
from retreever.model.tree import Tree
from tests.support.nodes import clustered, full, nodes

DEPTH, ROWS = 7, 5_000


def layout(similarity, dtype="float32", hierarchy=True):
    return Layout(DEPTH, similarity, hierarchy, "a" * 64, dtype)


def named(rows):
    return [f"d{i}" for i in np.random.default_rng(4).permutation(rows)]


def brute(index, query, k, level, alive=None):
    """Every similarity in float32, sorted; ties by id."""
    vector = index.layout.form(query[None, Tree(index.layout.depth).level(level)])[0]
    ids, scores, numbers = [], [], []
    for view in index._state.views:
        every = every_score(vector, level, view.segment, index.layout)
        for row in np.flatnonzero(view.rows_alive):
            if alive is None or alive[view.segment.numbers[row]]:
                ids.append(view.segment.ids[int(row)])
                scores.append(every[row])
                numbers.append(view.segment.numbers[row])
    order = np.lexsort((np.array(ids), -np.array(scores)))[:k]
    return np.array(numbers)[order], np.array(scores)[order]


def assert_exact(index, queries, k, level, **asked):
    numbers, scores = index.search(queries, k, level, **asked)
    for i, query in enumerate(queries):
        expected = brute(index, query, k, level, asked.get("where"))
        assert numbers[i].tolist() == expected[0].tolist() and np.array_equal(scores[i], expected[1])


@pytest.mark.parametrize("made", [clustered, nodes], ids=["clustered", "unstructured"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("similarity", ["ntvd", "bhattacharyya"])
def test_every_level_and_size_is_exact(similarity, dtype, made):
    index = TreeIndex.build([made(ROWS, DEPTH)], named(ROWS), layout(similarity, dtype))
    queries = made(4, DEPTH, seed=1)
    for level in range(1, DEPTH + 1):
        for k in (1, 10, 100):
            assert_exact(index, queries, k, level)


@pytest.mark.parametrize("similarity", ["ntvd", "bhattacharyya"])
def test_levels_without_a_hierarchy_are_exact_each_for_itself(similarity):
    passages, queries = clustered(ROWS, DEPTH), clustered(4, DEPTH, seed=1)
    for made, seed in ((passages, 7), (queries, 8)):
        other = clustered(len(made), DEPTH, seed)
        made[:, Tree(DEPTH).level(5)] = other[:, Tree(DEPTH).level(5)]  # no longer the sum of its children
    index = TreeIndex.build([passages], named(ROWS), layout(similarity, hierarchy=False))
    for level in range(1, DEPTH + 1):
        assert_exact(index, queries, 10, level)
        vectors = index.layout.form(passages[:, Tree(DEPTH).level(level)]).astype(np.float64)
        query = index.layout.form(queries[:1, Tree(DEPTH).level(level)])[0].astype(np.float64)
        every = vectors @ query if similarity == "bhattacharyya" else np.minimum(vectors, query).sum(axis=1) - 1
        np.testing.assert_allclose(index.search(queries[:1], 10, level)[1][0], np.sort(every)[::-1][:10], atol=2e-6)


@pytest.mark.parametrize("similarity", ["ntvd", "bhattacharyya"])
def test_passages_that_are_equal_by_the_thousand(similarity):
    distinct = clustered(6, DEPTH)
    index = TreeIndex.build([distinct[np.arange(ROWS) % 6]], named(ROWS), layout(similarity))
    assert_exact(index, distinct[:2], 50, DEPTH)
    assert_exact(index, distinct[:2], 50, 1)


def test_sharp_passages_on_single_leaves():
    leaves = np.zeros((ROWS, 2**DEPTH), np.float32)
    leaves[np.arange(ROWS), np.random.default_rng(0).integers(2**DEPTH, size=ROWS)] = 1
    for similarity in ("ntvd", "bhattacharyya"):
        index = TreeIndex.build([full(leaves)], named(ROWS), layout(similarity))
        assert_exact(index, full(leaves)[:3], 40, DEPTH)
        assert_exact(index, clustered(2, DEPTH), 40, DEPTH)


@pytest.mark.parametrize("similarity", ["ntvd", "bhattacharyya"])
def test_the_evidence_holds(similarity):
    index = TreeIndex.build([clustered(ROWS, DEPTH)], named(ROWS), layout(similarity))
    queries = clustered(6, DEPTH, seed=1)
    numbers, scores, evidence = index.search(queries, 10, certify=True)
    for i, proof in enumerate(evidence):
        assert proof.kth == scores[i, -1] and proof.bound <= proof.kth
        assert proof.scanned >= ROWS and proof.scored < ROWS / 2
        left_out = brute(index, queries[i], ROWS, DEPTH)[1][proof.scored :]
        assert (left_out <= max(proof.bound, proof.kth)).all()
    assert np.array_equal(numbers, index.search(queries, 10)[0])


@pytest.mark.parametrize("share", [0.001, 0.3, 1.0])
@pytest.mark.parametrize("similarity", ["ntvd", "bhattacharyya"])
def test_only_what_is_asked_for_is_found(similarity, share):
    index = TreeIndex.build([clustered(ROWS, DEPTH)], named(ROWS), layout(similarity))
    queries = clustered(3, DEPTH, seed=1)
    mask = np.random.default_rng(1).random(ROWS) < share
    assert_exact(index, queries, 10, DEPTH, where=mask)
    by_id = index.search(queries, 10, where=index.ids_of(np.flatnonzero(mask)))
    assert np.array_equal(by_id[0], index.search(queries, 10, where=mask)[0])


def test_where_that_fits_nothing_is_refused():
    index = TreeIndex.build([nodes(5)], named(5), Layout(4, "ntvd", True, "m"))
    with pytest.raises(ValueError, match=r"where: must be ids or a bool for each of 5 numbers, got \(4,\) of bool"):
        index.search(nodes(1), 1, where=np.ones(4, bool))
    with pytest.raises(ValueError, match="ids: the index has no 'x'"):
        index.search(nodes(1), 1, where=["d1", "x"])
    numbers, scores = index.search(nodes(2), 3, where=np.zeros(5, bool))
    assert numbers.shape == scores.shape == (2, 0)


def test_threads_do_not_matter():
    index = TreeIndex.build([clustered(ROWS, DEPTH)], named(ROWS), layout("bhattacharyya"))
    queries = clustered(20, DEPTH, seed=1)
    one, many = index.search(queries, 10, threads=1), index.search(queries, 10, threads=4)
    assert all(np.array_equal(a, b) for a, b in zip(one, many, strict=True))

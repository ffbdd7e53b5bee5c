"""A compact index: small, nearly exact, and it refuses what it cannot do."""

import numpy as np
import pytest

from retreever.index import Layout, TreeIndex
from tests.support.nodes import draw_clustered, draw_nodes

SIMILARITIES = ("ntvd", "bhattacharyya")


def build_index(similarity, passages, compact=True, depth=7, folder=None):
    layout = Layout(depth, similarity, True, "a" * 64, "float16", compact)
    return TreeIndex.build([passages], [f"d{i}" for i in range(len(passages))], layout, folder)


@pytest.mark.parametrize("draw_rows", [draw_clustered, draw_nodes], ids=["clustered", "unstructured"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_it_finds_nearly_the_same_passages(similarity, draw_rows):
    passages, queries = draw_rows(5_000, 7), draw_rows(40, 7, seed=1)
    exact, scores = build_index(similarity, passages, compact=False).search(queries, 10)
    index = build_index(similarity, passages)
    near, estimates = index.search(queries, 10)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near.tolist(), exact.tolist(), strict=True)]) > 0.9
    np.testing.assert_allclose(estimates, scores, atol=0.02)
    assert (np.diff(estimates, axis=1) <= 0).all()
    assert index.stats()["of_a_sample"][7]["recall_of_estimates"] > 0.8


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_the_answer_is_the_best_by_estimate(similarity):
    index = build_index(similarity, draw_clustered(5_000, 7))
    queries = draw_clustered(6, 7, seed=1)
    numbers, estimates = index.search(queries, 20)
    every, all_estimates = index.search(queries, 5_000)
    np.testing.assert_allclose(estimates, all_estimates[:, :20], atol=1e-6)
    assert (np.sort(every, axis=1) == np.arange(5_000)).all()
    for i in range(6):
        own = np.isin(every[i], numbers[i])
        assert all_estimates[i, own].min() >= estimates[i, -1] - 1e-6


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_at_1024_leaves_a_passage_takes_400_bytes_at_most(similarity):
    stats = build_index(similarity, draw_nodes(3_000, 10), depth=10).stats()
    assert stats["compact"] and stats["bytes_per_document"] <= 400
    assert stats["bytes_scanned_by_level"][10] <= 160


def test_few_passages_and_one():
    for rows in (1, 5, 300):
        numbers, _ = build_index("bhattacharyya", draw_nodes(rows, 7)).search(draw_nodes(rows, 7), 3)
        assert numbers.shape == (rows, min(3, rows)) and (numbers[:, 0] == np.arange(rows)).mean() > 0.9


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_deletions_are_on_disk(tmp_path, similarity):
    index = build_index(similarity, draw_clustered(3_000, 7), folder=tmp_path / "index")
    queries = draw_clustered(4, 7, seed=1)
    best = index.find_ids(index.search(queries, 3)[0][:, 0])
    index.delete(sorted(set(best)))
    again = TreeIndex.load(tmp_path / "index", checksums=True)
    assert np.array_equal(again.search(queries, 3)[0], index.search(queries, 3)[0])
    assert not set(best) & set(again.find_ids(again.search(queries, 50)[0].ravel()))
    mask = np.arange(3_000) % 7 == 0
    mask[[int(name[1:]) for name in best]] = False
    assert set(again.search(queries, 5, where=mask)[0].ravel().tolist()) <= set(np.flatnonzero(mask).tolist())


def test_unsupported_calls_are_refused():
    index = build_index("ntvd", draw_nodes(50, 7))
    with pytest.raises(ValueError, match="level: a compact index has level 7 alone, got 3"):
        index.search(draw_nodes(1, 7), 1, 3)
    with pytest.raises(ValueError, match="certify: a compact index estimates"):
        index.search(draw_nodes(1, 7), 1, certify=True)
    with pytest.raises(ValueError, match="compact: an index of codes alone cannot grow"):
        index.add(draw_nodes(1, 7), ["new"])


@pytest.mark.parametrize("depth", [4, 7, 9])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_probabilities_are_nearly_those_of_the_passages(similarity, depth):
    passages = draw_clustered(600, depth)
    numbers = np.array([7, 599, 0])
    index = build_index(similarity, passages, depth=depth)
    for level in range(1, min(depth, 8) + 1):
        own = passages[numbers, 2**level - 1 : 2 ** (level + 1) - 1]
        assert np.abs(index.read_probabilities(numbers, level) - own).sum(axis=1).max() < 0.15

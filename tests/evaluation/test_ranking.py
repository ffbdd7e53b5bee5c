import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retreever.evaluation import ranking
from retreever.evaluation.ranking import select_top_k, sum_of_min, top_k


def probabilities(seed: int, n: int, leaves: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(leaves, 0.3), n).astype(np.float32)


def slow_top_k(queries, passages, k, similarity):
    """Every pair by its definition, then a sort by score and row."""
    pairs = {
        "inner": lambda a, b: float(np.dot(a, b)),
        "bhattacharyya": lambda a, b: float(np.sqrt(a * b).sum()),
        "ntvd": lambda a, b: float(-0.5 * np.abs(a - b).sum()),
    }[similarity]
    scores = np.array([[pairs(a, b) for b in passages] for a in queries.astype(np.float64)])
    rows = np.array([sorted(range(len(passages)), key=lambda j: (-line[j], j))[:k] for line in scores])
    return rows, np.take_along_axis(scores, rows, axis=1)


@pytest.mark.parametrize("similarity", ["inner", "bhattacharyya", "ntvd"])
@pytest.mark.parametrize("blocks", [(256, 65_536), (3, 7)])
def test_same_as_every_pair_by_definition(similarity, blocks, monkeypatch):
    monkeypatch.setattr(ranking, "QUERIES_PER_BLOCK", blocks[0])
    monkeypatch.setattr(ranking, "PASSAGES_PER_BLOCK", blocks[1])
    queries, passages = probabilities(0, 8, 16), probabilities(1, 40, 16)
    rows, scores = top_k(queries, passages, 5, similarity)
    slow_rows, slow_scores = slow_top_k(queries, passages, 5, similarity)
    np.testing.assert_array_equal(rows, slow_rows)
    np.testing.assert_allclose(scores, slow_scores, atol=1e-6)
    assert rows.dtype == np.int64 and scores.dtype == np.float32


@pytest.mark.parametrize("similarity, own", [("bhattacharyya", 1.0), ("ntvd", 0.0)])
def test_a_text_is_most_similar_to_itself(similarity, own):
    texts = probabilities(2, 30, 32)
    rows, scores = top_k(texts, texts, 1, similarity)
    assert rows[:, 0].tolist() == list(range(30))
    np.testing.assert_allclose(scores[:, 0], own, atol=1e-6)


@pytest.mark.parametrize("similarity", ["inner", "bhattacharyya", "ntvd"])
def test_equal_scores_come_by_row(similarity, monkeypatch):
    monkeypatch.setattr(ranking, "PASSAGES_PER_BLOCK", 8)
    same = np.full((50, 4), 0.25, np.float32)
    rows, _ = top_k(same[:3], same, 20, similarity)
    assert (rows == np.arange(20)).all()


def test_k_beyond_the_corpus_returns_all_of_it():
    rows, scores = top_k(probabilities(0, 2, 4), probabilities(1, 3, 4), 10, "inner")
    assert rows.shape == scores.shape == (2, 3)


def test_slices_of_wider_arrays_and_no_queries_are_fine():
    nodes = probabilities(3, 9, 15)
    rows, _ = top_k(nodes[:0, 7:15], nodes[:, 7:15], 2, "ntvd")
    assert rows.shape == (0, 2)
    rows, _ = top_k(nodes[:, 7:15], nodes[:, 7:15], 2, "inner")
    assert rows.shape == (9, 2)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 12))
def test_best_is_a_stable_sort(values, k):
    scores = np.array([values], np.float32)
    rows, found = select_top_k(scores, k)
    expected = sorted(range(len(values)), key=lambda j: (-values[j], j))[:k]
    assert rows[0].tolist() == expected
    assert found[0].tolist() == [values[j] for j in expected]


def test_kernel_against_numpy():
    queries, passages = probabilities(4, 5, 64), probabilities(5, 7, 64)
    out = np.empty((5, 7), np.float32)
    sum_of_min(queries, passages, out)
    np.testing.assert_allclose(out, np.minimum(queries[:, None], passages).sum(-1), rtol=1e-5)

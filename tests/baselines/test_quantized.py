"""RaBitQ, optimised product quantisers and re-scored binary codes."""

import numpy as np
import pytest

from retreever.baselines import BinaryRescored, Form
from retreever.baselines.dense.vector_codes import VectorCodes


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Vectors with most of their spread in few directions, which no coordinate shows."""
    draw = np.random.default_rng(0)
    turn, _ = np.linalg.qr(draw.normal(size=(32, 32)))
    x = (draw.normal(size=(900, 32)) * 0.9 ** np.arange(32)) @ turn
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def share_found(vectors, code):
    queries = vectors[:100] + 0.02 * np.random.default_rng(1).normal(size=(100, 32)).astype(np.float32)
    exact, found = (VectorCodes(vectors, own).search(queries, 10)[0] for own in ("float32", code))
    return np.mean([len(set(a) & set(b)) for a, b in zip(exact, found, strict=True)]) / 10


def test_more_bits_of_rabitq_find_more(vectors):
    found = [share_found(vectors, f"rabitq{bits}") for bits in (1, 2, 4)]
    assert found == sorted(found) and found[0] > 0.3 and found[-1] > 0.8


def test_a_fitted_rotation_finds_no_less_than_a_random_one(vectors):
    assert share_found(vectors, "opq8") > share_found(vectors, "pq8") - 0.03
    assert VectorCodes(vectors, "opq8").bytes_per_vector == 8


@pytest.mark.parametrize("code", ["opq8", "rabitq1", "rabitq4"])
def test_one_query_scores_as_among_many(vectors, code):
    held = VectorCodes(vectors, code)
    many, alone = held.search(vectors[:40], 5), held.search(vectors[:1], 5)
    np.testing.assert_array_equal(many[0][0], alone[0][0])
    np.testing.assert_allclose(many[1][0], alone[1][0], atol=2e-3)  # one bit is estimated from a query in 8 bits


def test_binary_candidates_are_the_nearest_by_hamming_distance_and_ranked_by_int8(data):
    baseline = BinaryRescored()
    baseline.fit(data)
    passages, query = data.passages.pooled, data.queries.pooled[3:4]
    mean = passages.mean(axis=0)
    distances = ((passages > mean) != (query > mean)).sum(axis=1)
    rows, scores = baseline.search(np.array([3]), 40, Form(code="rescored 40"))
    assert distances[rows[0]].max() <= np.sort(distances)[39]
    coded = VectorCodes(passages, "int8").decode()[rows[0]]
    np.testing.assert_allclose(scores[0], 1 - np.square(coded - query).sum(1) / 2, atol=1e-5)
    assert (baseline.search(np.array([3]), 60, Form(code="rescored 40"))[0][0, 40:] == -2).all()


def test_all_candidates_rank_as_int8_does(data):
    baseline = BinaryRescored()
    baseline.fit(data)
    found, scores = baseline.search(np.arange(20), 10, Form(code="rescored 1000"))
    expected, theirs = VectorCodes(data.passages.pooled, "int8").search(data.queries.pooled[:20], 10)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(scores, theirs, atol=1e-5)

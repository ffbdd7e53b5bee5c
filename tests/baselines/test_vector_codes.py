import numpy as np
import pytest

from retreever.baselines.dense.vector_codes import MIN_QUERIES_TO_DECODE, VectorCodes


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(600, 32)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("code, weight, error", [("float32", 128, 0), ("float16", 64, 1e-3), ("int8", 32, 0.02)])
def test_scalar_codes_weigh_and_err_as_they_should(vectors, code, weight, error):
    held = VectorCodes(vectors, code)
    assert held.bytes_per_vector == weight
    assert np.abs(held.decode() - vectors).max() <= error


def test_more_parts_of_a_product_quantiser_err_less(vectors):
    errors = [np.square(VectorCodes(vectors, f"pq{parts}").decode() - vectors).sum(1).mean() for parts in (2, 8, 32)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.05
    assert VectorCodes(vectors, "pq8").bytes_per_vector == 8


@pytest.mark.parametrize("code", ["float32", "float16", "int8", "pq8", "pq4"])
def test_one_query_scores_as_among_many(vectors, code):
    held = VectorCodes(vectors, code)
    many, alone = held.search(vectors[:MIN_QUERIES_TO_DECODE], 5), held.search(vectors[:1], 5)
    np.testing.assert_array_equal(many[0][0], alone[0][0])
    np.testing.assert_allclose(many[1][0], alone[1][0], atol=1e-4)


def test_vectors_that_are_all_alike_keep_their_order_in_few_bytes(vectors):
    """Neighbours differ far less than they have in common, as the leaves of a tree do."""
    few = vectors @ np.random.default_rng(1).normal(size=(32, 128)).astype(np.float32)  # of 32 directions
    close = np.ones(128, np.float32) + 0.3 * few / np.linalg.norm(few, axis=1, keepdims=True) * 128**0.5
    close /= np.linalg.norm(close, axis=1, keepdims=True)
    assert (close @ close.T).min() > 0.8
    exact = VectorCodes(close).search(close[:100], 11)[0]
    found = VectorCodes(close, "pq32").search(close[:100], 11)[0]
    kept = np.mean([len(set(a) & set(b)) for a, b in zip(exact, found, strict=True)]) / 11
    assert kept > 0.7


def test_fewer_vectors_than_directions(vectors):
    held = VectorCodes(vectors[:10], "pq4")
    assert held.search(vectors[:1], 3)[0][0, 0] == 0 and held.bytes_per_vector <= 4


def test_equal_vectors_are_ranked_by_row(vectors):
    held = VectorCodes(np.repeat(vectors[:1], 5, axis=0))
    assert held.search(vectors[:1], 3)[0].tolist() == [[0, 1, 2]]
    assert held.search(np.repeat(vectors[:1], MIN_QUERIES_TO_DECODE, axis=0), 3)[0][0].tolist() == [0, 1, 2]


def test_an_unknown_code_or_parts_that_do_not_fit_are_refused(vectors):
    for code in ("float8", "pq5"):
        with pytest.raises(ValueError, match="code: must be float32"):
            VectorCodes(vectors, code)

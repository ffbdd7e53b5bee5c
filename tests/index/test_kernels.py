"""The compiled loops against their plain numpy twins."""

import numpy as np
import pytest

from retreever.index.kernels import STRIP, _project, _sift, score_rows, widen


def drawn(rows, leaves, seed=0):
    values = np.random.default_rng(seed).gamma(0.1, size=(rows, leaves)) + 1e-9
    return (values / values.sum(axis=1, keepdims=True)).astype(np.float32)


def scored(query, vectors, roots, rows=None):
    rows = np.arange(len(vectors)) if rows is None else rows
    out = np.empty(len(rows), np.float32)
    score_rows(query, vectors.view(np.uint16) if vectors.dtype == np.float16 else vectors, roots, rows, out)
    return out


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("leaves", [2, 8, 1024])
@pytest.mark.parametrize("roots", [True, False])
def test_scores_agree_with_their_twin(roots, leaves, dtype):
    passages, query = drawn(70, leaves).astype(dtype), drawn(1, leaves, seed=1)[0]
    wide = passages.astype(np.float64)
    twin = wide @ query if roots else np.minimum(wide, query).sum(axis=1) - 1
    np.testing.assert_allclose(scored(query, passages, roots), twin, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("roots", [True, False])
def test_a_query_of_a_coarser_level_sees_leaves_summed(roots, dtype):
    leaves, query = drawn(50, 64), drawn(1, 8, seed=1)[0]
    stored = (np.sqrt(leaves) if roots else leaves).astype(dtype)
    wide = stored.astype(np.float64)
    merged = (wide**2 if roots else wide).reshape(50, 8, 8).sum(axis=2)
    twin = np.sqrt(merged) @ np.sqrt(query) if roots else np.minimum(merged, query).sum(axis=1) - 1
    np.testing.assert_allclose(scored(np.sqrt(query) if roots else query, stored, roots), twin, atol=2e-6)


def test_the_similarity_of_a_text_with_itself_is_the_largest_there_is():
    leaves = drawn(20, 64)
    for row in range(20):
        assert scored(leaves[row], leaves[row : row + 1], False).item() == pytest.approx(0, abs=1e-6)
        roots = np.sqrt(leaves)
        assert scored(roots[row], roots[row : row + 1], True).item() == pytest.approx(1, abs=1e-6)


def test_distributions_that_share_nothing_are_as_far_apart_as_can_be():
    a, b = np.float32([0.5, 0.5, 0, 0]), np.float32([[0, 0, 0.25, 0.75]])
    assert scored(a, b, False).item() == -1
    assert scored(np.sqrt(a), np.sqrt(b), True).item() == 0


def test_the_example_of_the_paper():
    a, b = np.float32([0.9, 0.1]), np.float32([[0.8, 0.2]])
    assert scored(a, b, False).item() == pytest.approx(-0.1, abs=1e-6)


def test_every_float16_that_is_not_negative_is_widened_exactly():
    halves = np.arange(0x7C00, dtype=np.uint16)[None]  # zero, subnormals, normals; infinity is the next
    out = np.empty((1, 0x7C00), np.float32)
    score_rows(np.zeros(0x7C00, np.float32), halves, True, np.arange(1), np.empty(1, np.float32))
    widen(halves[0], out[0])
    assert np.array_equal(out, halves.view(np.float16).astype(np.float32))
    for bits in (0, 1, 0x3FF, 0x400, 0x3C00, 0x7BFF):  # the compiled one, seen through a product with one
        found = np.empty(1, np.float32)
        score_rows(np.float32([1]), np.uint16([[bits]]), True, np.arange(1), found)
        assert found[0] == np.uint16([bits]).view(np.float16).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("roots", [True, False])
def test_equal_passages_have_equal_scores_wherever_they_lie(roots, dtype):
    draw = np.random.default_rng(2)
    distinct, query = drawn(40, 64).astype(dtype), drawn(1, 64, seed=1)[0]
    for rows in draw.integers(41, 300, 10):
        which = draw.permutation(np.arange(rows) % 40)
        found = scored(query, distinct[which], roots)
        assert all(len(set(found[which == i].tolist())) == 1 for i in range(40))


@pytest.mark.parametrize("dims", [8, 64, 128])
def test_weighted_digits_agree_with_their_twin(dims):
    draw = np.random.default_rng(0)
    digits = draw.integers(16, size=(STRIP, dims), dtype=np.int64)
    weights = draw.integers(-30, 31, size=dims)
    strip = (digits[:, ::2] | digits[:, 1::2] << 4).astype(np.uint8).T.copy()
    sums = np.empty(STRIP, np.int16)
    _project(strip, weights.astype(np.int16), sums)
    assert np.array_equal(sums, digits @ weights)


def test_sums_that_wrap_on_the_way_end_right():
    digits = np.full((STRIP, 128), 15)
    weights = np.array([2_000] * 64 + [-2_000] * 64)  # half way the sum is 1,920,000
    strip = (digits[:, ::2] | digits[:, 1::2] << 4).astype(np.uint8).T.copy()
    sums = np.empty(STRIP, np.int16)
    _project(strip, weights.astype(np.int16), sums)
    assert not sums.any()


def test_a_heap_keeps_the_largest():
    values = np.random.default_rng(0).permutation(100).astype(np.float32)
    heap = np.full(7, -np.inf, np.float32)
    for value in values:
        if value > heap[0]:
            _sift(heap, value)
    assert heap[0] == 93 and sorted(heap) == list(range(93, 100))

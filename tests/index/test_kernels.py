"""The compiled loops against plain numpy versions, their twins."""

import numba
import numpy as np
import pytest

from retreever.index.codes.passage_code import NOTHING_ADDED
from retreever.index.index_layout import check_nodes
from retreever.index.kernels import coordinate_kernels, digit_kernels
from retreever.index.kernels.digit_kernels import GROUP_BYTES, TILE_PASSAGES, detect_arithmetic, unpack_digits
from retreever.index.kernels.float16_kernels import narrow_rows, widen
from retreever.index.kernels.similarity_kernels import (
    dot_rows,
    merge_rows,
    refine_probabilities,
    scan_probabilities,
    score_rows,
)
from retreever.index.kernels.top_k_kernels import keep_best_estimates, score_best_first, select_candidates, update_heap


def draw_vectors(rows, leaves, seed=0):
    values = np.random.default_rng(seed).gamma(0.1, size=(rows, leaves)) + 1e-9
    return (values / values.sum(axis=1, keepdims=True)).astype(np.float32)


def score_all(query, vectors, roots, rows=None):
    rows = np.arange(len(vectors)) if rows is None else rows
    out = np.empty(len(rows), np.float32)
    score_rows(query, vectors.view(np.uint16) if vectors.dtype == np.float16 else vectors, roots, rows, out)
    return out


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("leaves", [2, 8, 1024])
@pytest.mark.parametrize("roots", [True, False])
def test_scores_agree_with_their_twin(roots, leaves, dtype):
    passages, query = draw_vectors(70, leaves).astype(dtype), draw_vectors(1, leaves, seed=1)[0]
    wide = passages.astype(np.float64)
    twin = wide @ query if roots else np.minimum(wide, query).sum(axis=1) - 1
    np.testing.assert_allclose(score_all(query, passages, roots), twin, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("roots", [True, False])
def test_a_query_of_a_coarser_level_sees_leaves_summed(roots, dtype):
    leaves, query = draw_vectors(50, 64), draw_vectors(1, 8, seed=1)[0]
    stored = (np.sqrt(leaves) if roots else leaves).astype(dtype)
    wide = stored.astype(np.float64)
    merged = (wide**2 if roots else wide).reshape(50, 8, 8).sum(axis=2)
    twin = np.sqrt(merged) @ np.sqrt(query) if roots else np.minimum(merged, query).sum(axis=1) - 1
    np.testing.assert_allclose(score_all(np.sqrt(query) if roots else query, stored, roots), twin, atol=2e-6)


def test_the_similarity_of_a_text_with_itself_is_the_maximum():
    leaves = draw_vectors(20, 64)
    for row in range(20):
        assert score_all(leaves[row], leaves[row : row + 1], False).item() == pytest.approx(0, abs=1e-6)
        roots = np.sqrt(leaves)
        assert score_all(roots[row], roots[row : row + 1], True).item() == pytest.approx(1, abs=1e-6)


def test_disjoint_distributions_have_the_least_similarity():
    a, b = np.float32([0.5, 0.5, 0, 0]), np.float32([[0, 0, 0.25, 0.75]])
    assert score_all(a, b, False).item() == -1
    assert score_all(np.sqrt(a), np.sqrt(b), True).item() == 0


def test_the_example_of_the_paper():
    a, b = np.float32([0.9, 0.1]), np.float32([[0.8, 0.2]])
    assert score_all(a, b, False).item() == pytest.approx(-0.1, abs=1e-6)


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


def test_every_float16_is_narrowed_to_itself_and_numbers_between_to_the_nearest():
    halves = np.arange(0x7C00, dtype=np.uint16)
    exact = halves.view(np.float16).astype(np.float32)
    between = ((exact[:-1].astype(np.float64) + exact[1:]) / 2).astype(np.float32)
    draw = np.random.default_rng(0)
    random = (draw.random(10_000) * 10.0 ** draw.uniform(-9, 0, 10_000)).astype(np.float32)
    for values in (exact, between, np.nextafter(between, np.float32(1)), random):
        padded = np.concatenate([[9, 9], values]).astype(np.float32)[None]
        narrow = np.empty((1, len(values)), np.float16)
        narrow_rows(padded, 2, False, narrow)
        assert np.array_equal(narrow[0], values.astype(np.float16))
    roots = np.empty((1, len(random)), np.float16)
    narrow_rows(random[None], 0, True, roots)
    assert np.array_equal(roots[0], np.sqrt(random).astype(np.float16))


@pytest.mark.parametrize("wrong", [-1e-6, 1.01, np.nan, np.inf, -np.inf])
def test_a_number_that_is_no_probability_is_refused_wherever_it_stands(wrong):
    values = np.full((300, 31), 0.5, np.float32)
    values[3, 4] = -0.0  # is one
    assert check_nodes(values, 4, "nodes") is values
    for row, column in ((0, 0), (299, 30), (150, 20)):
        broken = values.copy()
        broken[row, column] = wrong
        with pytest.raises(ValueError, match="nodes: probabilities must lie within"):
            check_nodes(broken, 4, "nodes")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("roots", [True, False])
def test_equal_passages_have_equal_scores_wherever_they_lie(roots, dtype):
    draw = np.random.default_rng(2)
    distinct, query = draw_vectors(40, 64).astype(dtype), draw_vectors(1, 64, seed=1)[0]
    for rows in draw.integers(41, 300, 10):
        which = draw.permutation(np.arange(rows) % 40)
        found = score_all(query, distinct[which], roots)
        assert all(len(set(found[which == i].tolist())) == 1 for i in range(40))


def bound_tiles(by, blocks, groups, weights, base, residuals, scales, threshold):
    """Bounds and masks of all tiles for every query, in one arithmetic."""
    bounds = digit_kernels.make_tile_bounds(by)

    @numba.njit
    def run(codes, groups, weights, base, residuals, scales, threshold, upper, masks):
        own = np.empty(TILE_PASSAGES, np.float32)
        for query in range(masks.shape[0]):
            for block in range(masks.shape[1]):
                masks[query, block] = bounds(
                    codes, block, groups, weights, base, block, residuals, base.shape[0], scales, query, threshold, own
                )
                upper[query, block * TILE_PASSAGES : (block + 1) * TILE_PASSAGES] = own

    queries = len(scales)
    upper = np.empty((queries, len(base)), np.float32)
    masks = np.empty((queries, len(blocks)), np.uint32)
    flat = (weights.reshape(-1), base, residuals.reshape(-1), scales.reshape(-1))
    run(blocks.reshape(-1), groups, *flat, np.float32(threshold), upper, masks)
    return upper, masks


def split_weights(weights):
    """Weights as the kernels take them: of every group the high parts of even and odd digits, then the low parts."""
    high = np.rint(weights / digit_kernels.HIGH_PART_UNIT).astype(np.int64)
    parts = np.stack([high, weights - digit_kernels.HIGH_PART_UNIT * high])  # (2, dims)
    grouped = parts.reshape(2, -1, GROUP_BYTES, 2).transpose(1, 0, 3, 2)  # (groups, parts, even or odd, bytes)
    return np.ascontiguousarray(grouped, np.int8).reshape(-1)


def pack_tiles(own):
    """Digits below 16, two a byte (the even one lower), in blocks."""
    packed = own[:, ::2] | own[:, 1::2] << 4
    groups = packed.reshape(-1, TILE_PASSAGES, packed.shape[1] // GROUP_BYTES, GROUP_BYTES)
    return np.ascontiguousarray(groups.transpose(0, 2, 1, 3)).reshape(len(groups), -1)


@pytest.mark.parametrize("dims", [8, 64, 136])
def test_digits_are_packed_as_their_twin_does(dims):
    draw = np.random.default_rng(0)
    own, rows = draw.integers(256, size=(70, dims), dtype=np.uint8), draw.integers(70, size=4 * TILE_PASSAGES)
    blocks, lower = (
        np.zeros((4, dims // 2 // GROUP_BYTES, TILE_PASSAGES), np.uint32),
        np.zeros((4 * TILE_PASSAGES, dims // 2), np.uint8),
    )
    sums = np.zeros((2, dims))
    coordinate_kernels.pack_rows(own, rows, blocks, lower, sums)
    laid = blocks.view(np.uint8).reshape(4, -1)
    assert np.array_equal(laid, pack_tiles(own[rows] >> 4))
    assert np.array_equal(unpack_digits(laid, np.arange(4 * TILE_PASSAGES)), own[rows] >> 4)
    assert np.array_equal(lower, (own[rows][:, ::2] & 15) | own[rows][:, 1::2] << 4)
    assert np.array_equal(sums, own[rows].reshape(2, -1, dims).sum(axis=1))


@pytest.mark.parametrize(
    "by", sorted({"plain", detect_arithmetic()} | ({"avx2"} if detect_arithmetic() == "vnni" else set()))
)
@pytest.mark.parametrize("dims", [8, 64, 128])
def test_bounds_of_digits_agree_with_their_twin(dims, by):
    draw = np.random.default_rng(0)
    own = draw.integers(16, size=(3 * TILE_PASSAGES, dims), dtype=np.uint8)
    weights = draw.integers(-digit_kernels.LARGEST_WEIGHT, digit_kernels.LARGEST_WEIGHT + 1, size=(2, dims))
    weights[:, 0] = digit_kernels.LARGEST_WEIGHT, -digit_kernels.LARGEST_WEIGHT
    base, residuals = draw.random(len(own), np.float32), draw.integers(256, size=(3, len(own)), dtype=np.uint8)
    scales = np.float32([[1e-7, 1e-3, 2e-3, 0.5], [2e-7, 3e-3, 1e-3, -0.5]])
    flat = np.stack([split_weights(row.astype(np.int16)) for row in weights])
    upper, masks = bound_tiles(by, pack_tiles(own), dims // 8, flat, base, residuals, scales, 1.0)
    sums = weights @ own.T.astype(np.int64)
    twin = scales[:, :1] * sums + scales[:, 1:2] * residuals[0] + scales[:, 2:3] * residuals[1] + scales[:, 3:] + base
    np.testing.assert_allclose(upper, twin, atol=2e-5)
    bits = (masks[:, :, None] >> np.arange(TILE_PASSAGES, dtype=np.uint32)) & 1
    assert np.array_equal(bits.reshape(2, -1).astype(bool), upper >= 1)


@pytest.mark.parametrize("dims", [8, 24, 128])
def test_weights_of_queries_agree_with_their_twin(dims):
    vectors, mean = draw_vectors(5, 32), draw_vectors(1, 32, seed=1)[0]
    directions = draw_vectors(dims, 32, seed=2) - np.float32(0.1)
    vectors[4] = mean  # in the middle of everything
    step = np.random.default_rng(0).uniform(0.01, 0.1, dims).astype(np.float32)
    places, lower = np.empty((5, dims + 1), np.float32), np.empty((5, dims + 1), np.float32)
    weights, terms = np.empty((5, 2 * dims), np.int8), np.empty((5, 4))
    coordinate_kernels.weigh_queries(vectors, mean, directions, step, places, weights, lower, terms)
    centred = (vectors - mean).astype(np.float64)
    twin = centred @ directions.T.astype(np.float64)
    np.testing.assert_allclose(places, np.hstack([twin, np.ones((5, 1))]), atol=1e-5)
    own, worth = twin * step, twin * step * 16
    np.testing.assert_allclose(lower, np.hstack([own, -7.5 * own.sum(axis=1, keepdims=True)]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        terms[:, 1:3], np.stack([(twin**2).sum(1), (centred**2).sum(1)], 1), rtol=1e-5, atol=1e-9
    )
    whole = weights.reshape(5, -1, 2, 2, digit_kernels.GROUP_BYTES).astype(
        np.int64
    )  # queries, groups, high or low, even or odd
    whole = (digit_kernels.HIGH_PART_UNIT * whole[:, :, 0] + whole[:, :, 1]).transpose(0, 1, 3, 2).reshape(5, dims)
    assert np.abs(whole[:4]).max(axis=1).tolist() == [digit_kernels.LARGEST_WEIGHT] * 4 and not whole[4].any()
    assert np.array_equal(weights, [split_weights(row) for row in whole])
    lost = np.abs(worth - whole * terms[:, :1])
    assert (lost <= 0.51 * terms[:, :1] + 1e-6).all()
    constant = centred @ mean - 7.5 * terms[:, 0] * whole.sum(axis=1) + 7.5 * lost.sum(axis=1)
    np.testing.assert_allclose(terms[:, 3], constant, rtol=1e-4, atol=1e-4)


def test_a_heap_keeps_the_largest():
    heap = np.full(7, -np.inf, np.float32)
    update_heap(np.random.default_rng(0).permutation(100).astype(np.float32), heap)
    assert heap[0] == 93 and sorted(heap) == list(range(93, 100))


def test_candidates_are_scored_in_falling_order_of_bounds_until_none_can_be_among_the_best():
    draw, k = np.random.default_rng(0), 5
    passages, queries = draw_vectors(200, 64), draw_vectors(3, 64, seed=1)
    rows = draw.permutation(200).astype(np.int32)
    exact = np.stack([score_all(query, passages, False) for query in queries])
    counts, found = np.array([200, 120, 0]), np.stack([draw.permutation(200) for _ in range(3)]).astype(np.int32)
    upper = np.take_along_axis(exact, rows[found], axis=1) + draw.random((3, 200), np.float32) * np.float32(0.2)
    places, given, had = found.copy(), upper.copy(), counts.copy()
    thresholds, best = np.full(3, -np.inf, np.float32), np.full((3, k), -np.inf, np.float32)
    bounds, done = np.full(3, -np.inf, np.float32), np.zeros(3, np.int64)
    state, none = (thresholds, best, bounds, done), np.empty((3, 0), np.float32)
    score_best_first(queries, passages, False, rows, places, given, counts, *state, NOTHING_ADDED, none, none)
    for query in range(2):
        seen = rows[found[query, : had[query]]]
        kth = np.sort(exact[query, seen])[-k]
        falling = np.sort(upper[query, : had[query]])[::-1]
        assert thresholds[query] == best[query, 0] == kth and k <= done[query] < had[query]
        assert bounds[query] == falling[done[query]] < kth <= falling[done[query] - 1]
        kept = places[query, : counts[query]]
        assert set(kept) == set(seen[exact[query, seen] >= kth])
        assert np.array_equal(given[query, : counts[query]], exact[query, kept])
    assert counts[2] == done[2] == 0 and thresholds[2] == -np.inf


def test_places_that_reach_their_querys_threshold_are_selected():
    draw = np.random.default_rng(0)
    places, bounds = np.arange(60, dtype=np.int32).reshape(2, 30), draw.random((2, 30), np.float32)
    starts, ends, thresholds = np.array([0, 10]), np.array([20, 10]), np.float32([0.5, 0.0])
    selected, selected_bounds, counts = np.empty_like(places), np.empty_like(bounds), np.array([7, 7])
    select_candidates(places, bounds, starts, ends, thresholds, selected, selected_bounds, counts)
    wanted = np.flatnonzero(bounds[0, :20] >= 0.5)
    assert counts.tolist() == [len(wanted), 0]
    assert np.array_equal(selected[0, : counts[0]], wanted)
    assert np.array_equal(selected_bounds[0, : counts[0]], bounds[0, wanted])


def test_estimates_keep_what_may_be_among_the_best():
    rows, places = np.arange(100, 130, dtype=np.int32), np.arange(30, dtype=np.int32)[None].copy()
    estimates = np.random.default_rng(0).random((1, 30), np.float32)
    given, counts, best = estimates.copy(), np.array([25]), np.full((1, 4), -np.inf, np.float32)
    keep_best_estimates(rows, places, given, counts, np.float32([0.1]), best)
    top = np.argsort(-estimates[0, :25])[:4]
    assert counts == [4] and set(places[0, :4]) == set(rows[top]) and best[0, 0] == estimates[0, top[-1]]
    assert np.array_equal(np.sort(given[0, :4]), np.sort(estimates[0, top]))


def test_rows_are_centred_and_measured_as_their_twin_is():
    vectors, mean = draw_vectors(50, 64), draw_vectors(1, 64, seed=1)[0]
    centred, sums = vectors.copy(), np.empty((2, 50), np.float32)
    coordinate_kernels.centre_vectors(centred, mean, sums)
    assert np.array_equal(centred, vectors - mean)
    np.testing.assert_allclose(sums, [vectors @ mean, ((vectors - mean) ** 2).sum(axis=1)], rtol=1e-5)


def test_coordinates_are_rounded_and_measured_as_their_twin_is():
    draw = np.random.default_rng(0)
    step = draw.uniform(0.01, 0.1, 24).astype(np.float32)
    exact = (draw.standard_normal((50, 24)) * 60 * step).astype(np.float32)  # some lie beyond the grid
    own, squares = np.empty((50, 24), np.uint8), np.empty((3, 50), np.float32)
    coordinate_kernels.quantize_rows(exact, step, own, squares)
    twin = np.clip(np.rint(exact / step + np.float32(127.5)), 0, 255)
    assert np.abs(own - twin).max() <= 1 and (own != twin).mean() < 1e-2  # a tie may be rounded either way
    upper = exact - ((own & 0xF0) + 7.5 - 127.5) * step
    lower = exact - (own - 127.5) * step
    np.testing.assert_allclose(squares, [(x**2).sum(axis=1) for x in (exact, upper, lower)], rtol=1e-4)


@pytest.mark.parametrize("roots", [True, False])
@pytest.mark.parametrize("width", [2, 4, 8])
def test_levels_are_merged_as_their_twin_is(roots, width):
    rows, out = draw_vectors(50, 64), np.empty((50, 64 // width), np.float32)
    merge_rows(rows, roots, out)
    groups = rows.reshape(50, -1, width).astype(np.float64)
    np.testing.assert_allclose(out, np.sqrt((groups**2).sum(axis=2)) if roots else groups.sum(axis=2), rtol=1e-5)


def test_inner_products_agree_with_their_twin():
    vectors, rows = draw_vectors(7, 64), draw_vectors(50, 64, seed=1)
    np.testing.assert_allclose(dot_rows(vectors, rows), vectors @ rows.T, rtol=1e-5, atol=1e-7)


def test_lower_digits_and_bytes_agree_with_their_twins():
    draw = np.random.default_rng(0)
    low, residuals = draw.integers(256, size=(40, 12), dtype=np.uint8), draw.integers(256, size=(3, 40), dtype=np.uint8)
    steps, upper = draw.standard_normal(25).astype(np.float32), draw.random(40, np.float32)
    weights = (np.float32([0.01]), np.float32([0.002]))

    def make_candidates(upper):
        return np.arange(40, dtype=np.int32)[None, ::-1].copy(), upper[None].copy(), np.array([40])

    places, bounds, counts = make_candidates(upper)
    thresholds = np.float32([-np.inf])
    digit_kernels.refine_digits(low, residuals, steps[None], *weights, thresholds, places, bounds, counts)
    sums = (low & 15) @ steps[:-1:2] + (low >> 4) @ steps[1:-1:2] + steps[-1]
    twin = sums + 0.002 * residuals[2].astype(float) - 0.01 * residuals[0]
    assert counts == [40]
    np.testing.assert_allclose(bounds[0], upper + twin[::-1], atol=1e-3)

    query, excess = draw.integers(256, size=12, dtype=np.uint8), draw.random(40, np.float32)
    places, bounds, counts = make_candidates(upper + 9)
    kernel = (np.float32(0.01), np.float32([-0.5]), np.float32(1))
    refine_probabilities(low, excess, query[None], *kernel, thresholds, places, bounds, counts, NOTHING_ADDED)
    twin = np.minimum(upper + 9, (0.01 * np.minimum(low, query).sum(axis=1) + excess - 0.5)[::-1])
    assert counts == [40]
    np.testing.assert_allclose(bounds[0], twin, atol=1e-5)

    half = np.float32([np.median(twin)])
    refine_probabilities(low, excess, query[None], *kernel, half, places, bounds, counts, NOTHING_ADDED)
    assert np.array_equal(places[0, : counts[0]], np.arange(40)[::-1][twin >= half])


@pytest.mark.parametrize("hybrid", [False, True])
def test_sums_of_minima_agree_with_their_twin(hybrid):
    draw = np.random.default_rng(0)
    added = draw.random((2, 768), np.float32) * np.float32(0.1) if hybrid else NOTHING_ADDED
    blocks, queries = (
        draw.integers(400, size=(3, 16, 256), dtype=np.uint16),
        draw.integers(400, size=(2, 16), dtype=np.uint16),
    )
    alive, received = (
        draw.integers(2, size=768, dtype=np.uint8),
        (np.empty((2, 900), np.int32), np.empty((2, 900), np.float32)),
    )
    counts, thresholds = np.zeros(2, np.int64), np.float32([-0.85, -0.8])
    order = np.array([[2, 0, 1]])
    own = (queries, np.float32(1e-4), thresholds)
    assert scan_probabilities(blocks, alive, order, 0, *own, *received, counts, added) == 3
    for query in range(2):
        twin = np.minimum(blocks, queries[query][None, :, None]).sum(axis=1).reshape(-1) * 1e-4 - 1
        twin = twin + added[query] if hybrid else twin
        expected = np.concatenate([np.arange(256 * s, 256 * (s + 1)) for s in order[0]])
        expected = expected[(twin[expected] >= thresholds[query]) & (alive[expected] == 1)]
        assert np.array_equal(received[0][query, : counts[query]], expected)
        np.testing.assert_allclose(received[1][query, : counts[query]], twin[expected], atol=1e-6)

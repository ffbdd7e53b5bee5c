"""Clustered trees: their splits, the probabilities they give, and searches that look into leaves."""

import numpy as np
import pytest

from retreever.baselines import Form, HierGMM, HierKMeans
from retreever.baselines.clustered.hier_gmm import fit_mixture_odds

KINDS = [HierKMeans, HierGMM]


@pytest.fixture(scope="module", params=KINDS)
def baseline(request, data):
    tree = request.param(depth=4, seed=0)
    tree.fit(data)
    return tree


def blobs(seed=0):
    """Four tight clusters on a circle, two near each other and two opposite."""
    draw = np.random.default_rng(seed)
    angles = np.repeat([0.0, 0.6, 3.1, 3.7], 25) + 0.02 * draw.normal(size=100)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_odds_are_those_of_sklearns_responsibilities():
    from sklearn.mixture import GaussianMixture

    points = np.concatenate([blobs(), blobs(1) * 0.5])
    weights, constant = fit_mixture_odds(points, seed=3)
    fitted = GaussianMixture(2, covariance_type="diag", reg_covar=1e-2, max_iter=50, random_state=3).fit(points)
    shares = fitted.predict_proba(points)
    odds = np.concatenate([points, points * points], axis=1) @ weights + constant
    np.testing.assert_allclose(1 / (1 + np.exp(-odds)), shares[:, 0], atol=1e-4)


def test_probabilities_sum_to_one_and_follow_the_path(baseline, data):
    vectors = data.passages.pooled[:6]
    found = baseline._probabilities(vectors)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    left = 1 / (1 + np.exp(-np.clip(baseline._odds(vectors) / baseline.temperature, -60, 60)))
    for leaf in range(16):
        node, expected = 0, np.ones(6)
        for step in f"{leaf:04b}":
            expected *= left[:, node] if step == "0" else 1 - left[:, node]
            node = 2 * node + 1 + int(step)
        np.testing.assert_allclose(found[:, leaf], expected, rtol=1e-4, atol=1e-7)


def test_a_beam_as_wide_as_the_tree_is_an_exhaustive_search(baseline, data):
    rows, scores = baseline.search(np.arange(9), 60, Form(code="beam 16"))
    unit = data.queries.pooled[:9] / np.linalg.norm(data.queries.pooled[:9], axis=1, keepdims=True)
    np.testing.assert_allclose(scores, np.sort(unit @ data.passages.pooled.T, axis=1)[:, ::-1], atol=1e-5)
    assert (np.sort(rows, axis=1) == np.arange(60)).all()


def test_greedy_looks_into_one_leaf(baseline):
    rows, _ = baseline.search(np.arange(30), 60, Form(code="greedy"))
    held = [set(baseline._by_leaf[a:b]) for a, b in zip(baseline._offsets[:-1], baseline._offsets[1:], strict=True)]
    assert all(set(row[row >= 0]) in held for row in rows)


def test_wider_beams_find_no_less(baseline, data):
    def found(code):
        rows, _ = baseline.search(np.arange(180, 240), 10, Form(code=code))
        return (rows == (np.arange(180, 240) % 60)[:, None]).any(axis=1).mean()

    assert found("greedy") <= found("beam 4") <= found("beam 16")


def test_settings_are_chosen_from_the_grid(baseline):
    assert baseline.temperature in baseline.temperatures and baseline.similarity in ("ntvd", "bhattacharyya")
    assert [form.dims for form in baseline.forms] == [16, None, None, None]


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_repeats_itself(kind, data):
    first, second = kind(depth=3, seed=1), kind(depth=3, seed=1)
    for tree in (first, second):
        tree.fit(data)
    for name, array in first._arrays().items():
        np.testing.assert_array_equal(array, second._arrays()[name])

import numpy as np

from retreever.baselines import PCA, Form, FrozenEncoder


def sizes(baseline):
    return [form.dims for form in baseline.forms if form.code == "float32"]


def test_all_components_unwhitened_are_centred_cosine(data):
    baseline = PCA()
    baseline.fit(data)
    baseline.whitening = 0.0
    baseline.index(data)
    pairs = data.dataset.pairs("train")
    mean = np.concatenate(
        [data.queries.pooled[np.unique(pairs[:, 0])], data.passages.pooled[np.unique(pairs[:, 1])]]
    ).mean(0)
    queries, passages = data.queries.pooled[:5] - mean, data.passages.pooled - mean
    cosines = queries @ passages.T / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(passages, axis=1)
    projected = baseline._compute_vectors(data.queries, np.arange(5)), baseline._passages
    norms = [np.linalg.norm(side, axis=1) for side in projected]
    np.testing.assert_allclose(projected[0] @ projected[1].T / np.outer(*norms), cosines, atol=1e-5)


def test_full_whitening_evens_the_spread(data):
    baseline = PCA()
    baseline.fit(data)
    baseline.whitening = 1.0
    pairs = data.dataset.pairs("train")
    queries = baseline._compute_vectors(data.queries, np.unique(pairs[:, 0]))
    passages = baseline._compute_vectors(data.passages, np.unique(pairs[:, 1]))
    np.testing.assert_allclose(np.concatenate([queries, passages]).std(axis=0, ddof=1), 1, rtol=1e-3)


def test_sizes_are_powers_of_two_up_to_the_width(data):
    baseline = PCA()
    baseline.fit(data)
    assert sizes(baseline) == [16, 32]  # of 40
    baseline._deviations = baseline._deviations[:9]
    assert sizes(baseline) == [8]


def test_frozen_is_cosine(data):
    baseline = FrozenEncoder()
    baseline.fit(data)
    _, scores = baseline.search(np.arange(4), 60, Form())
    expected = np.sort(data.queries.pooled[:4] @ data.passages.pooled.T, axis=1)[:, ::-1]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert [baseline.bytes_per_document(form) for form in baseline.forms] == [4 * 40, 2 * 40, 40]

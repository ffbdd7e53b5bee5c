import numpy as np

from retreever.baselines import PCA, Form, Frozen


def sizes(rival):
    return [form.dims for form in rival.forms if form.code == "float32"]


def test_all_components_unwhitened_are_centred_cosine(data):
    rival = PCA()
    rival.fit(data)
    rival.whitening = 0.0
    rival.index(data)
    pairs = data.dataset.pairs("train")
    mean = np.concatenate(
        [data.queries.pooled[np.unique(pairs[:, 0])], data.passages.pooled[np.unique(pairs[:, 1])]]
    ).mean(0)
    queries, passages = data.queries.pooled[:5] - mean, data.passages.pooled - mean
    cosines = queries @ passages.T / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(passages, axis=1)
    projected = rival._vectors(data.queries, np.arange(5)), rival._passages
    norms = [np.linalg.norm(side, axis=1) for side in projected]
    np.testing.assert_allclose(projected[0] @ projected[1].T / np.outer(*norms), cosines, atol=1e-5)


def test_full_whitening_evens_the_spread(data):
    rival = PCA()
    rival.fit(data)
    rival.whitening = 1.0
    pairs = data.dataset.pairs("train")
    queries = rival._vectors(data.queries, np.unique(pairs[:, 0]))
    passages = rival._vectors(data.passages, np.unique(pairs[:, 1]))
    np.testing.assert_allclose(np.concatenate([queries, passages]).std(axis=0, ddof=1), 1, rtol=1e-3)


def test_sizes_are_powers_of_two_up_to_the_width(data):
    rival = PCA()
    rival.fit(data)
    assert sizes(rival) == [16, 32]  # of 40
    rival._deviations = rival._deviations[:9]
    assert sizes(rival) == [8]


def test_frozen_is_cosine(data):
    rival = Frozen()
    rival.fit(data)
    _, scores = rival.search(np.arange(4), 60, Form())
    expected = np.sort(data.queries.pooled[:4] @ data.passages.pooled.T, axis=1)[:, ::-1]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert [rival.bytes_per_document(form) for form in rival.forms] == [4 * 40, 2 * 40, 40]

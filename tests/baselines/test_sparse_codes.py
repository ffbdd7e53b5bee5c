"""Sparse codes: the autoencoder, its inverted lists, and that the two rank as dense cosines of the codes do."""

import numpy as np
import pytest
import torch

from retreever.baselines import Form, FrozenEncoder, SparseCodes
from retreever.baselines.sparse import inverted_lists
from retreever.baselines.sparse.inverted_lists import InvertedLists
from retreever.baselines.sparse.sparse_autoencoder import (
    AutoencoderSettings,
    SparseAutoencoder,
    keep_largest,
    train_autoencoder,
)
from retreever.baselines.sparse.sparse_codes import AUTOENCODER_GRID
from retreever.evaluation.metrics import evaluate_rankings, group_judgements


def random_codes(rows, active, width, seed=0):
    draw = np.random.default_rng(seed)
    features = np.stack([draw.permutation(width)[:active] for _ in range(rows)])
    return features, np.maximum(draw.normal(size=(rows, active)), 0).astype(np.float32)


def densify(features, values, width):
    out = np.zeros((len(features), width), np.float32)
    np.put_along_axis(out, features, values, axis=1)
    return out


@pytest.mark.parametrize("block", [1 << 16, 7])
def test_lists_give_the_inner_products_of_the_codes(block, monkeypatch):
    monkeypatch.setattr(inverted_lists, "PASSAGES_PER_BLOCK_OF_LISTS", block)
    passages, queries = random_codes(50, 6, 40), random_codes(9, 5, 40, seed=1)
    lists = InvertedLists(*passages, 40)
    expected = densify(*queries, 40) @ densify(*passages, 40).T
    np.testing.assert_allclose(lists.score_all(*queries), expected, atol=1e-3)
    assert lists.bytes_per_passage == 4 * (passages[1] > 0).sum() / 50


def test_codes_of_nothing_score_nothing():
    lists = InvertedLists(np.zeros((3, 2), np.int64), np.zeros((3, 2), np.float32), 5)
    assert (lists.score_all(np.zeros((1, 2), np.int64), np.ones((1, 2), np.float32)) == 0).all()
    assert lists.bytes_per_passage == 0


def test_the_largest_are_kept_as_far_as_they_are_positive():
    activity = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    kept = keep_largest(activity, 4)
    assert ((kept > 0).sum(1) <= 4).all()
    for own, row in zip(activity, kept, strict=True):
        chosen = own.argsort(descending=True)[:4]
        expected = torch.zeros(30)
        expected[chosen] = own[chosen].relu()
        torch.testing.assert_close(row, expected)


def train(data, steps, seed=0, **settings):
    model = SparseAutoencoder(data.dim, 160)
    model.start_from(torch.from_numpy(data.passages.pooled.copy()), torch.Generator().manual_seed(0))
    train_autoencoder(
        model, data, data.dataset.pairs("train"), AutoencoderSettings(**settings),
        sizes=(4, 16), steps=steps, batch_size=32, seed=seed,
    )  # fmt: skip
    return model


def reconstruction_error(model, data):
    x = torch.from_numpy(data.passages.pooled)
    with torch.no_grad():
        return torch.nn.functional.mse_loss(model.reconstruct(keep_largest(model(x), 16)), x).item()


def test_training_reconstructs_better_and_the_more_it_weighs(data):
    at_start = reconstruction_error(train(data, 0), data)
    light, heavy = (reconstruction_error(train(data, 60, lr=5e-3, reconstruction=own), data) for own in (0.01, 3.0))
    assert heavy < light and heavy < 0.7 * at_start


def test_training_repeats_itself_and_leaves_the_global_seed_alone(data):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second, other = train(data, 5), train(data, 5), train(data, 5, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first.encoder, second.encoder) and not torch.equal(first.encoder, other.encoder)


def test_learns_what_the_frozen_encoder_cannot_leave_out(data):
    frozen, sparse = FrozenEncoder(), SparseCodes(steps=200, batch_size=64)
    frozen.fit(data)
    sparse.fit(data)
    assert sparse.settings in AUTOENCODER_GRID
    queries, relevant = group_judgements(data.dataset.qrels["test"])
    ours, theirs = (
        evaluate_rankings(own.search(queries, 10, form)[0], relevant)["ndcg_at_10"]
        for own, form in ((sparse, sparse.forms[-1]), (frozen, Form()))
    )
    assert ours > theirs + 0.03


def test_scores_are_cosines_of_the_active_features(data):
    sparse = SparseCodes(steps=8, batch_size=32)
    sparse.fit(data)
    for form in sparse.forms:
        codes = []
        for encodings in (data.queries, data.passages):
            with torch.no_grad():
                code = keep_largest(sparse._model(torch.from_numpy(encodings.pooled)), form.dims).numpy()
            codes.append(code / np.linalg.norm(code, axis=1, keepdims=True))
        _, scores = sparse.search(np.arange(9), 60, form)
        np.testing.assert_allclose(scores, np.sort(codes[0][:9] @ codes[1].T, axis=1)[:, ::-1], atol=2e-4)

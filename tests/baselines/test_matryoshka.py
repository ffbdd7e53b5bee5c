from math import log

import numpy as np
import pytest
import torch

from retreever.baselines import AttentiveMatryoshka, FrozenEncoder, Matryoshka
from retreever.baselines.baseline import evaluate_on_dev
from retreever.baselines.fitted_files import save_fitted_files
from retreever.baselines.matryoshka import matryoshka_head
from retreever.baselines.matryoshka.matryoshka_head import HEAD_SETTINGS_GRID
from retreever.baselines.matryoshka.prefix_head import (
    AttentionHead,
    HeadSettings,
    LinearHead,
    info_nce,
    initialize_as_frame,
    initialize_from_principal_directions,
    train_head,
)
from retreever.comparison.judge import describe_fit_protocol
from retreever.config import Config
from retreever.data.dataset import Passage, Query, RetrievalDataset
from retreever.encoding.encoding_store import EncodedDataset
from retreever.errors import DataError
from retreever.system.files import digest_json
from tests.baselines.conftest import Vectors


def train(data, steps=20, seed=0, **settings):
    weight = initialize_from_principal_directions(data.passages.pooled, 16, torch.Generator().manual_seed(0))
    head = LinearHead(weight)
    train_head(
        head, data, data.dataset.pairs("train"), HeadSettings(**settings),
        prefixes=(2, 4, 8, 16), steps=steps, batch_size=32, seed=seed,
    )  # fmt: skip
    return head.weight.detach().numpy()


def test_equal_similarities_cost_the_log_of_the_batch():
    same = torch.ones(8, 3)
    assert info_nce(same, same, torch.tensor(5.0), torch.ones(8, 8, dtype=torch.bool)).item() == pytest.approx(log(8))


def test_pairs_that_do_not_count_cost_nothing():
    vectors = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    loss = info_nce(vectors, vectors.flip(0), torch.tensor(5.0), torch.eye(6, dtype=torch.bool))
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_same_as_two_cross_entropies():
    draw = torch.Generator().manual_seed(0)
    q, p = torch.randn(6, 4, generator=draw), torch.randn(6, 4, generator=draw)
    keep = torch.rand(6, 6, generator=draw) > 0.3
    keep |= torch.eye(6, dtype=torch.bool)
    logits = 7 * torch.nn.functional.cosine_similarity(q[:, None], p[None], dim=2)
    logits = logits.masked_fill(~keep, -torch.inf)
    twice = [torch.nn.functional.cross_entropy(side, torch.arange(6)) for side in (logits, logits.T)]
    assert info_nce(q, p, torch.tensor(7.0), keep).item() == pytest.approx(sum(twice).item() / 2)


def test_start_is_a_rotation_by_spread(data):
    weight = initialize_from_principal_directions(data.passages.pooled, 60, torch.Generator().manual_seed(0)).numpy()
    np.testing.assert_allclose(weight[:40] @ weight[:40].T, np.eye(40), atol=1e-5)
    spread = (data.passages.pooled @ weight[:40].T).var(axis=0)
    assert (np.diff(spread) <= 1e-6).all()
    assert weight.shape == (60, 40)
    assert initialize_from_principal_directions(data.passages.pooled, 8, torch.Generator()).shape == (8, 40)


def test_frame_ranks_as_the_encodings_and_its_first_outputs_are_principal_directions(data):
    passages = data.passages.pooled
    weight = initialize_as_frame(passages, 100, torch.Generator().manual_seed(0)).numpy()
    np.testing.assert_allclose(weight.T @ weight, np.eye(40), atol=1e-4)
    principal = initialize_from_principal_directions(passages, 100, torch.Generator().manual_seed(0)).numpy()
    np.testing.assert_array_equal(weight[:40], principal[:40])
    wide = np.random.default_rng(0).normal(size=(300, 80)).astype(np.float32)
    weight = initialize_as_frame(wide, 160, torch.Generator().manual_seed(0)).numpy()
    np.testing.assert_allclose(weight.T @ weight, np.eye(80), atol=1e-4)
    spread = (wide @ weight[:64].T).var(axis=0)
    assert (np.diff(spread) <= 1e-4).all()
    assert not np.allclose(weight[64:], 0)


def train_head_from_start(data, head, steps=20, **settings):
    """How far each output's row lies from its start after training, and its length."""
    start = head.weight.detach().clone()
    train_head(
        head, data, data.dataset.pairs("train"), HeadSettings(**settings),
        prefixes=(2, 4, 8, 16), steps=steps, batch_size=32, seed=0,
    )  # fmt: skip
    weight = head.weight.detach()
    return (weight - start).norm(dim=-1), weight.norm(dim=-1)


@pytest.mark.parametrize("heads", [0, 2])
def test_anchor_holds_the_outputs_of_each_prefix_at_its_own_strength(data, heads):
    weight = initialize_from_principal_directions(data.passages.pooled, 16, torch.Generator().manual_seed(0))

    def train_with(anchor):
        head = AttentionHead(weight.clone(), heads) if heads else LinearHead(weight.clone())
        return train_head_from_start(data, head, lr=0.01, anchor=anchor)[0].reshape(-1, 16)

    loose, firm = train_with((0.1,) * 4), train_with((0.1, 0.1, 1e9, 0.0))
    assert (firm[:, 4:8] == 0).all(), "a pull by more than all of the way ends at the start"
    assert (firm[:, [*range(4), *range(8, 16)]] > 0.01).all()
    assert (loose > 0.01).all()


def test_without_anchor_the_outputs_shrink_and_with_it_they_keep_their_length(data):
    weight = initialize_from_principal_directions(data.passages.pooled, 16, torch.Generator().manual_seed(0))
    settings = {"lr": 0.01, "steps": 100, "weight_decay": 20.0}
    shrunk = train_head_from_start(data, LinearHead(weight.clone()), **settings)[1]
    held = train_head_from_start(data, LinearHead(weight.clone()), anchor=(20.0,) * 4, **settings)[1]
    assert (held > shrunk + 0.2).all()


def test_anchor_with_another_number_of_strengths_than_prefixes_is_refused(data):
    with pytest.raises(ValueError, match="anchor: 2 strengths; must be one for each of 4"):
        train(data, anchor=(1.0, 2.0))


def test_heads_of_the_time_before_anchors_still_load(data, tmp_path):
    head = Matryoshka(steps=2, batch_size=16)
    head.grid = [HeadSettings(start="frame", anchor=(1.0, 1.0, 2.0, 2.0))]
    head.fit(data)
    head.save(tmp_path / "new")
    again = Matryoshka()
    again.load(tmp_path / "new")
    assert again.settings == head.settings
    older = {"lr": 0.002, "input_dropout": 0.2, "weight_decay": 2.0, "scales": [10.0, 16.0, 20.0, 25.0]}
    arrays = {"weight": head._head.weight.detach().numpy()}
    save_fitted_files(tmp_path / "old", "matryoshka", older, arrays)
    again.load(tmp_path / "old")
    assert again.settings == HeadSettings(lr=0.002, input_dropout=0.2)


def test_heads_tuned_otherwise_are_other_heads(data, monkeypatch):
    before = describe_fit_protocol("matryoshka", Config(), data)
    monkeypatch.setattr(Matryoshka, "grid", HEAD_SETTINGS_GRID[:1])
    fewer = describe_fit_protocol("matryoshka", Config(), data)
    monkeypatch.setattr(matryoshka_head, "TUNING_SHARE", 0.5)
    longer = describe_fit_protocol("matryoshka", Config(), data)
    assert before != fewer != longer
    assert digest_json(fewer) != digest_json(before)


def test_training_repeats_itself_and_leaves_the_global_seed_alone(data):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = train(data), train(data)
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, train(data, seed=1))


def test_learns_what_the_frozen_encoder_cannot_leave_out(data):
    frozen, head = FrozenEncoder(), Matryoshka(steps=40, batch_size=64)
    frozen.fit(data)
    head.fit(data)
    assert head.settings in HEAD_SETTINGS_GRID
    assert evaluate_on_dev(head, data) > evaluate_on_dev(frozen, data) + 0.1


def test_trained_on_the_pairs_that_the_tree_may_see(data):
    some, all_pairs = Matryoshka(steps=4, batch_size=16, max_pairs=16), Matryoshka(steps=4, batch_size=16)
    for baseline in (some, all_pairs):
        baseline._train(data, HeadSettings(), 4, lambda items, label, total=None: iter(items))
    assert not torch.equal(some._head.weight, all_pairs._head.weight)


def test_attention_starts_as_the_linear_head_on_the_mean_token(data):
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    x, mask = data.passages.batch(np.arange(5), tokens=True)
    mask[2, 1:] = False
    mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(AttentionHead(weight, 3)(x, mask), LinearHead(weight)(mean))


def test_attention_is_the_sum_over_heads(data):
    draw = torch.Generator().manual_seed(0)
    head = AttentionHead(torch.randn(6, 40, generator=draw), 2)
    torch.nn.init.normal_(head.attention, generator=draw)
    x, mask = data.passages.batch(np.arange(2), tokens=True)
    mask[1, 2] = False
    for text, known, out in zip(x, mask, head(x, mask), strict=True):
        shares = [torch.softmax(text[known] @ u, 0) for u in head.attention]
        expected = sum(w @ (a @ text[known]) for w, a in zip(head.weight, shares, strict=True))
        torch.testing.assert_close(out, expected)


def test_attention_learns_to_look_away_from_noise_that_no_linear_head_can_undo():
    """The topic stands in one token, a shout of another topic in the other; only the attention can tell them apart."""
    draw = np.random.default_rng(0)
    topics = draw.normal(size=(40, 12))

    class Shouted(Vectors):
        def __init__(self, rows):
            calm = np.hstack([topics[rows], np.ones((len(rows), 4))])
            loud = np.hstack([1.5 * topics[draw.permutation(len(rows)) % 40], -np.ones((len(rows), 4))])
            self.states = np.stack([calm, loud], axis=1).astype(np.float32)
            super().__init__(self.states.mean(axis=1))

        def batch(self, rows, tokens=False):
            if not tokens:
                return super().batch(rows)
            return torch.from_numpy(self.states[rows]), torch.ones(len(rows), 2, dtype=torch.bool)

    passages, queries = tuple(Passage(f"p{i}", "x") for i in range(40)), tuple(Query(f"q{i}", "x") for i in range(200))
    rows = np.arange(200)
    judged = np.stack([rows, rows % 40, np.ones_like(rows)], axis=1)
    dataset = RetrievalDataset("loud", passages, queries, {"train": judged[:160], "dev": judged[160:]})
    data = EncodedDataset(dataset, Shouted(rows % 40), Shouted(np.arange(40)))
    linear, attentive = Matryoshka(steps=160, batch_size=40), AttentiveMatryoshka(steps=160, batch_size=40)
    attentive.grid = [HeadSettings(lr=2e-2)]
    for baseline in (linear, attentive):
        baseline.fit(data)
    assert evaluate_on_dev(attentive, data) > evaluate_on_dev(linear, data) + 0.1


def test_attention_without_tokens_is_refused(data):
    pooled = Vectors(data.passages.pooled)
    pooled.has_tokens = False
    with pytest.raises(DataError, match=r"encoder\.tokens = true"):
        AttentiveMatryoshka().fit(EncodedDataset(data.dataset, data.queries, pooled))

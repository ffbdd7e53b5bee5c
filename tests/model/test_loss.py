import math

import pytest
import torch
from torch.autograd import gradcheck

from retreever.model import negatives_mask
from tests.support.trees import build_loss

NAMES = ["ntvd", "bhattacharyya"]


def level(batch, seed, leaves=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, leaves, generator=generator, dtype=torch.float64).log_softmax(1).requires_grad_()


def value(loss, *levels, **how):
    return loss(*levels, **how)[0]


def build(name="bhattacharyya", scale=20.0):
    return build_loss(similarity=name, scale=scale).double()


def masks(batch, negatives=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    passages, queries = torch.randint(5, (batch,), generator=generator), torch.arange(batch) // 2
    return (
        negatives_mask(passages, queries, negatives, generator),
        negatives_mask(queries, passages, negatives, generator),
    )


def loss_by_definition(loss, queries, passages, keep_queries, keep_passages):
    logits = loss.similarity(queries, passages) * loss.scale
    total = 0.0
    for i in range(len(queries)):
        total += torch.logsumexp(logits[i][keep_queries[i]], 0) - logits[i, i]
        total += torch.logsumexp(logits[:, i][keep_passages[i]], 0) - logits[i, i]
    return total / (2 * len(queries))


@pytest.mark.parametrize("name", NAMES)
def test_equal_scores_give_the_logarithm_of_the_number_that_count(name):
    same = torch.full((6, 4), 0.25, dtype=torch.float64).log()
    assert value(build(name), same, same).item() == pytest.approx(math.log(6))
    three = torch.eye(6, dtype=torch.bool) | torch.eye(6, dtype=torch.bool).roll(1, 1)
    assert value(build(name), same, same, keep_queries=three).item() == pytest.approx(math.log(2))
    kept = {"keep_queries": three, "keep_passages": torch.ones(6, 6, dtype=torch.bool)}
    assert value(build(name), same, same, **kept).item() == pytest.approx((math.log(2) + math.log(6)) / 2)


def test_without_negatives_the_loss_is_zero():
    own = torch.eye(4, dtype=torch.bool)
    assert value(build(), level(4, 0), level(4, 1), keep_queries=own, keep_passages=own).item() == pytest.approx(0)


@pytest.mark.parametrize("name", NAMES)
def test_against_the_loop(name):
    loss, queries, passages = build(name), level(7, 0), level(7, 1)
    keep_queries, keep_passages = masks(7)
    slow = loss_by_definition(loss, queries, passages, keep_queries, keep_passages)
    fast = value(loss, queries, passages, keep_queries=keep_queries, keep_passages=keep_passages)
    torch.testing.assert_close(fast, slow)
    a, b = (torch.autograd.grad(value, [queries, passages]) for value in (slow, fast))
    torch.testing.assert_close(a, b)


def test_one_mask_serves_both_directions():
    loss, queries, passages, keep = build(), level(7, 0), level(7, 1), masks(7)[0]
    both = value(loss, queries, passages, keep_queries=keep, keep_passages=keep.T.contiguous())
    torch.testing.assert_close(value(loss, queries, passages, keep_queries=keep), both)


def test_a_duplicate_passage_is_no_negative():
    """The second and third row share their passage: masked as each other's negatives, they lose no more."""
    loss, queries = build(), level(3, 0)
    passages = level(3, 1)[[0, 1, 1]]
    keep = negatives_mask(torch.tensor([0, 1, 1]), torch.arange(3))
    logits = loss.similarity(queries, passages) * loss.scale
    second = torch.logsumexp(logits[1, [0, 1]], 0) - logits[1, 1]
    masked = value(loss, queries, passages, keep_queries=keep)
    assert masked < value(loss, queries, passages)
    torch.testing.assert_close(masked, loss_by_definition(loss, queries, passages, keep, keep.T))
    assert second < torch.logsumexp(logits[1], 0) - logits[1, 1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("masked", [True, False])
def test_mean_of_two_workers_is_the_whole(name, masked):
    loss, queries, passages = build(name), level(6, 0), level(6, 1)
    kept = dict(zip(("keep_queries", "keep_passages"), masks(6), strict=True)) if masked else {}
    whole = value(loss, queries, passages, **kept)
    all_rows = {"all_queries": queries, "all_passages": passages, **kept}
    parts = [value(loss, queries[at : at + 3], passages[at : at + 3], offset=at, **all_rows) for at in (0, 3)]
    mean = torch.stack(parts).mean()
    torch.testing.assert_close(mean, whole)
    inputs = [queries, passages, *loss.parameters()]
    torch.testing.assert_close(torch.autograd.grad(mean, inputs), torch.autograd.grad(whole, inputs))


def test_two_workers_share_one_mask_too():
    loss, queries, passages, keep = build(), level(6, 0), level(6, 1), masks(6)[0]
    all_rows = {"all_queries": queries, "all_passages": passages, "keep_queries": keep}
    parts = [value(loss, queries[at : at + 3], passages[at : at + 3], offset=at, **all_rows) for at in (0, 3)]
    torch.testing.assert_close(torch.stack(parts).mean(), value(loss, queries, passages, keep_queries=keep))


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name):
    loss, (keep_queries, keep_passages) = build(name, 3.0), masks(4)
    kept = {"keep_queries": keep_queries, "keep_passages": keep_passages}
    assert gradcheck(lambda q, p, _: value(loss, q, p, **kept), (level(4, 0), level(4, 1), loss.log_scale))


def test_logits_far_below_the_best_add_nothing_and_stay_finite():
    """At a scale of 10,000 nearly all terms of the softmax are too small for float32."""
    loss, queries, passages = build(scale=10_000.0), level(6, 0), level(6, 1)
    everything = torch.ones(6, 6, dtype=torch.bool)
    found, softmax = loss(queries, passages)
    slow = loss_by_definition(loss, queries, passages, everything, everything)
    torch.testing.assert_close(found, slow)
    torch.testing.assert_close(
        *(torch.autograd.grad(one, [queries, passages], retain_graph=True) for one in (found, slow))
    )
    assert min(softmax.queries.min(), softmax.passages.min()) > torch.finfo(torch.float32).tiny


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("masked", [True, False])
def test_a_level_learns_part_of_its_target_from_a_finer_one(name, masked):
    """Cross-entropy with 0.3 of the right answer and 0.7 of the finer level's softmax, over the pairs that count."""
    loss, queries, passages = build(name), level(5, 0), level(5, 1)
    kept = dict(zip(("keep_queries", "keep_passages"), masks(5), strict=True)) if masked else {}
    _, finer = loss(level(5, 2, 16), level(5, 3, 16), **kept)
    found, _ = loss(queries, passages, finer_targets=finer, share=0.7, **kept)
    logits, slow = loss.similarity(queries, passages) * loss.scale, 0.0
    everything = torch.ones(5, 5, dtype=torch.bool)
    for side, soft_targets, keep in (
        (logits, finer.queries, kept.get("keep_queries", everything)),
        (logits.T, finer.passages, kept.get("keep_passages", everything)),
    ):
        for i in range(5):
            torch.testing.assert_close(soft_targets[i].sum().item(), 1.0)
            assert (soft_targets[i, ~keep[i]] < 1e-15).all()
            likely = side[i, keep[i]].log_softmax(0)
            slow -= (0.7 * soft_targets[i, keep[i]] * likely).sum() + 0.3 * (side[i, i] - side[i, keep[i]].logsumexp(0))
    torch.testing.assert_close(found, slow / 10)
    gradients = (torch.autograd.grad(total, [queries, passages], retain_graph=True) for total in (found, slow / 10))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("masked", [True, False])
def test_two_workers_learn_the_same_from_a_finer_level(masked):
    loss, coarse, fine = build(), (level(6, 0), level(6, 1)), (level(6, 2, 16), level(6, 3, 16))
    kept = {"keep_queries": masks(6)[0]} if masked else {}
    whole, _ = loss(*coarse, finer_targets=loss(*fine, **kept)[1], share=0.7, **kept)

    def of_worker(at, both, **distillation):
        mine = [side[at : at + 3] for side in both]
        return loss(*mine, all_queries=both[0], all_passages=both[1], offset=at, **kept, **distillation)

    parts = [of_worker(at, coarse, finer_targets=of_worker(at, fine)[1], share=0.7)[0] for at in (0, 3)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_the_scale_is_clamped_but_never_stuck():
    loss = build_loss(similarity="bhattacharyya", scale=400.0, scale_min=0.1, scale_max=1000.0)
    assert loss.scale == pytest.approx(400.0)
    for beyond, bound in ((20.0, 1000.0), (-20.0, 0.1)):
        torch.nn.init.constant_(loss.log_scale, beyond)
        assert loss.scale == pytest.approx(bound)
        loss.clamp_()
        loss.zero_grad()
        value(loss, level(4, 0).float(), level(4, 1).float()).backward()
        assert loss.log_scale.grad.abs() > 0


def test_every_level_has_its_own_scale():
    queries, passages = level(4, 0), level(4, 1)
    several = build_loss(similarity="bhattacharyya", scale=20.0, levels=3).double()
    several.log_scale.data = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    for d in (1, 2, 3):
        alone = build(scale=math.exp(d))
        torch.testing.assert_close(value(several, queries, passages, level=d), value(alone, queries, passages, level=d))
    assert several.scale == pytest.approx(math.exp(3))


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: build_loss(similarity="cosine"), "similarity"),
        (lambda: build_loss(scale=20000.0), "scale"),
        (lambda: build_loss(scale_min=0.0), "scale_min"),
        (lambda: build()(level(3, 0), level(3, 1), all_queries=level(6, 0)), "all_queries, all_passages"),
        (lambda: negatives_mask(torch.arange(3), torch.arange(3), 0), "negatives"),
    ],
)
def test_bad_arguments_are_named(call, field):
    with pytest.raises(ValueError, match=f"^{field}: must .*got"):
        call()


def test_all_negatives():
    mask = negatives_mask(torch.tensor([0, 1, 0, 2]), torch.tensor([0, 1, 2, 1]))
    assert mask.int().tolist() == [[1, 1, 0, 1], [1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 1, 1]]


@pytest.mark.parametrize("negatives", [1, 4, 200])
def test_drawn_negatives(negatives):
    generator = torch.Generator().manual_seed(0)
    passages, queries = torch.randint(40, (64,), generator=generator), torch.randint(50, (64,), generator=generator)
    everything = negatives_mask(passages, queries)
    drawn = negatives_mask(passages, queries, negatives, generator)
    assert drawn.diagonal().all() and not (drawn & ~everything).any()
    assert torch.equal(drawn.sum(1) - 1, (everything.sum(1) - 1).clamp_max(negatives))


def test_negatives_are_drawn_evenly_and_by_generator():
    ids = torch.arange(6)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([negatives_mask(ids, ids, 2, generator) for _ in range(1000)]).float().mean(0)
    torch.testing.assert_close(draws, torch.eye(6) * 0.6 + 0.4, atol=0.06, rtol=0)
    first, again = (negatives_mask(ids, ids, 2, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, again)

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from retreever.config import TreeConfig
from retreever.model import RoutingTree, bhattacharyya
from retreever.model.router import PROPAGATIONS, SPLIT_FUNCTIONS
from tests.support.trees import build_loss, build_tree

DIM = 8


def texts(split, batch=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if split != "cross_attention":
        return F.normalize(torch.randn(batch, DIM, generator=generator) + 0.5, dim=1), None
    mask = torch.rand(batch, 5, generator=generator) < 0.7
    mask[:, 0] = True
    return torch.randn(batch, 5, DIM, generator=generator) + 0.5, mask


def build(split="linear", propagation="product", **settings):
    torch.manual_seed(0)
    return build_tree(DIM, depth=3, split=split, propagation=propagation, d_emb=4, d_k=8, hidden=6, **settings)


def test_choices_are_those_of_the_configuration():
    assert set(SPLIT_FUNCTIONS) == set(TreeConfig.model_fields["split"].annotation.__args__)
    assert set(PROPAGATIONS) == set(TreeConfig.model_fields["propagation"].annotation.__args__)


@pytest.mark.parametrize("propagation", PROPAGATIONS)
@pytest.mark.parametrize("split", SPLIT_FUNCTIONS)
def test_every_pair_routes_and_learns(split, propagation):
    tree = build(split, propagation)
    tree.calibrate(*texts(split))
    for depth in (1, 2, None):
        log_probs = tree(*texts(split), depth)
        for d in range(1, (depth or 3) + 1):
            torch.testing.assert_close(tree.level(log_probs, d).logsumexp(1), torch.zeros(50), atol=1e-5, rtol=0)
            assert torch.equal(tree.levels(log_probs)[d], tree.level(log_probs, d))
    (tree.level(log_probs, 3).exp() ** 2).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in tree.parameters())


@pytest.mark.parametrize("propagation", PROPAGATIONS)
@pytest.mark.parametrize("split", SPLIT_FUNCTIONS)
def test_a_shallower_depth_is_a_prefix(split, propagation):
    tree = build(split, propagation).eval()
    tree.calibrate(*texts(split))
    torch.testing.assert_close(tree(*texts(split), 2), tree(*texts(split))[:, :7])


def spread_scores(tree, x, mask):
    return tree.spread(tree.split(x, mask))


@pytest.mark.parametrize("propagation", PROPAGATIONS)
@pytest.mark.parametrize("split", SPLIT_FUNCTIONS)
def test_calibration_sets_the_spread_of_the_scores(split, propagation):
    tree = build(split, propagation, init_std=0.3, level_norm=False)
    tree.calibrate(*texts(split))
    assert tree.training
    tree.eval()
    scores = spread_scores(tree, *texts(split))
    assert scores.std(0, correction=0).mean().item() == pytest.approx(0.3, rel=1e-4)
    if propagation != "product":
        torch.testing.assert_close(scores.mean(0), torch.zeros(scores.shape[1]), atol=1e-5, rtol=0)


def test_level_norm_starts_at_about_the_same_spread():
    tree = build_tree(64, depth=6, init_std=0.3, level_norm=True).eval()
    x = F.normalize(torch.randn(200, 64), dim=1)
    tree.calibrate(x)
    assert spread_scores(tree, x, None).std(0).mean().item() == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize("split", SPLIT_FUNCTIONS)
def test_calibration_balances_the_tree(split):
    tree = build(split, "product", init_std=1.0, level_norm=False).eval()
    tree.calibrate(*texts(split))
    scores, log_probs = spread_scores(tree, *texts(split)), tree(*texts(split))
    reached = (log_probs[:, :7].exp() * scores).sum(0)
    torch.testing.assert_close(reached, torch.zeros(7), atol=1e-4, rtol=0)


def test_a_linear_split_starts_at_the_given_spread_for_unit_vectors():
    torch.manual_seed(0)
    tree = build_tree(256, depth=8, init_std=0.05, level_norm=False)
    x = F.normalize(torch.randn(500, 256), dim=1)
    assert spread_scores(tree, x, None).std(0).mean().item() == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize("growth", [0.0, 0.5])
def test_near_the_balanced_tree_the_similarity_is_a_distance_of_the_scores(growth):
    """1 - sum_l sqrt(a_l b_l) = 1/32 sum_t 2^-level(t) (s_t(a) - s_t(b))^2, up to third order."""
    torch.manual_seed(0)
    tree = build_tree(32, depth=5, init_std=0.02, init_growth=growth).double().eval()
    x = F.normalize(torch.randn(20, 32, dtype=torch.float64), dim=1)
    tree.calibrate(x)
    scores = spread_scores(tree, x, None) * torch.cat([torch.full((2**d,), 2.0 ** (-d / 2)) for d in range(5)])
    for level in (1, 3, 5):
        leaves = tree.level(tree(x), level)
        lost = 1 - bhattacharyya(leaves, leaves)
        expected = torch.cdist(scores[:, : 2**level - 1], scores[:, : 2**level - 1]) ** 2 / 32
        torch.testing.assert_close(lost, expected, atol=0.05 * expected.max().item(), rtol=0)


@pytest.mark.parametrize(
    ("split", "propagation"), [*((s, "product") for s in SPLIT_FUNCTIONS), *(("linear", p) for p in PROPAGATIONS[1:])]
)
def test_training_fits_a_batch_of_pairs(split, propagation):
    tree = build(split, propagation, init_std=0.3, init_growth=0.0)
    loss = build_loss(similarity="bhattacharyya", scale=20.0)
    (passages, mask), (noise, _) = texts(split, 24), texts(split, 24, seed=1)
    queries = passages + 0.05 * noise
    tree.calibrate(passages, mask)
    optimizer = torch.optim.AdamW([*tree.parameters(), *loss.parameters()], lr=0.02)
    losses = []
    for _ in range(60):
        q, p = tree.level(tree(queries, mask), 3), tree.level(tree(passages, mask), 3)
        losses.append(loss(q, p)[0])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
        loss.clamp_()
    assert losses[-1] < 0.6 * losses[0]


def test_calibration_needs_texts_that_differ():
    with pytest.raises(ValueError, match=r"^x: "):
        build().calibrate(torch.ones(1, DIM))


@pytest.mark.parametrize("split", SPLIT_FUNCTIONS)
def test_arguments_rebuild_the_tree(split):
    tree = build(split, "consistent", init_std=0.2).eval()
    again = RoutingTree(**tree.arguments).eval()
    again.load_state_dict(tree.state_dict())
    assert torch.equal(again(*texts(split)), tree(*texts(split)))
    assert set(tree.arguments) == {"dim", *TreeConfig().architecture()}


def test_exact_hierarchy():
    exact = {name: build(propagation=name).exact_hierarchy for name in PROPAGATIONS}
    assert exact == {
        "product": True, "learned": False, "learned_per_node": False, "consistent": True, "leaf_softmax": True
    }  # fmt: skip


@pytest.mark.parametrize("split", SPLIT_FUNCTIONS)
@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_half_precision_stops_at_the_scores(split, propagation):
    tree, (x, mask) = build(split, propagation), texts(split)
    tree.calibrate(x, mask)
    tree.eval()
    exact = tree(x, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_probs = tree(x, mask)
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.exp(), exact.exp(), atol=0.01, rtol=0.05)
    torch.testing.assert_close(tree.level(log_probs, 3).logsumexp(1), torch.zeros(50), atol=1e-5, rtol=0)


def test_parameters_are_made_once():
    tree = build("cross_attention", "learned")
    before = {name: id(p) for name, p in tree.named_parameters()}
    tree.calibrate(*texts("cross_attention"))
    tree(*texts("cross_attention"))
    assert before == {name: id(p) for name, p in tree.named_parameters()}
    assert all(isinstance(p, nn.Parameter) for p in tree.parameters())


def test_the_papers_tree_has_its_number_of_parameters():
    """2.75 M, less the biases of keys and values (2 x 512), which cancel and do not exist here."""
    paper = {"heads": 8, "d_emb": 768, "d_k": 512, "values": "projected", "embedding_std": 1.0, "level_norm": False}
    tree = build_tree(1024, depth=10, split="cross_attention", **paper)
    numbers = 1023 * 768 + (768 + 1) * 512 + 2 * (1024 + 1) * 512 + 1023 * (512 + 1)
    assert sum(p.numel() for p in tree.parameters()) == numbers - 2 * 512
    assert round(numbers / 1e6, 2) == 2.75


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: build_tree(DIM, depth=0), "depth"),
        (lambda: build_tree(0), "dim"),
        (lambda: build_tree(DIM, split="quadratic"), "split"),
        (lambda: build_tree(DIM, propagation="sum"), "propagation"),
        (lambda: build_tree(DIM, split="cross_attention", heads=3), "d_k"),
        (lambda: build()(torch.ones(1, DIM), None, 4), "depth"),
        (lambda: build().level(torch.ones(1, 15), 4), "level"),
    ],
)
def test_bad_arguments_are_named(call, field):
    with pytest.raises(ValueError, match=f"^{field}: must .*got"):
        call()

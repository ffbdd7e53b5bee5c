import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from retreever.model import (
    ConsistentPropagation,
    LeafSoftmaxPropagation,
    LearnedPerNodePropagation,
    LearnedPropagation,
    ProductPropagation,
    Tree,
)
from tests.support.trees import build_propagation

KINDS = [
    ProductPropagation,
    LearnedPropagation,
    LearnedPerNodePropagation,
    ConsistentPropagation,
    LeafSoftmaxPropagation,
]
EXACT = [ProductPropagation, ConsistentPropagation, LeafSoftmaxPropagation]
INPUTS = {
    ProductPropagation: 7,
    LearnedPropagation: 15,
    LearnedPerNodePropagation: 15,
    ConsistentPropagation: 15,
    LeafSoftmaxPropagation: 8,
}


def scores(kind, depth=3, batch=4, std=2.0):
    torch.manual_seed(1)
    module = build_propagation(kind, depth).double().eval()
    return module, torch.randn(batch, module.inputs, dtype=torch.float64) * std


def reach(s, tree, node):
    """The probability of a node by recursion."""
    if node == 0:
        return 1.0
    parent = tree.parent(node)
    left = 1 / (1 + math.exp(-s[parent]))
    return reach(s, tree, parent) * (left if node == tree.children(parent)[0] else 1 - left)


def test_product_equals_the_recursion():
    module, s = scores(ProductPropagation)
    expected = [[reach(row, module.tree, node) for node in range(module.tree.nodes)] for row in s.tolist()]
    torch.testing.assert_close(module(s).exp(), torch.tensor(expected, dtype=torch.float64))


def path_logit(module, row, node):
    """The node MLP of the paper, one node of one text: self, parent, ..., root, zeros."""
    path = [row[t] for t in (node, *module.tree.ancestors(node))]
    path = torch.stack(path + [torch.zeros_like(row[0])] * (module.tree.depth + 1 - len(path)))
    which = node if module.per_node else 0
    mlp = module.mlp
    hidden = (mlp.inner[which] @ path + mlp.inner_bias[which, :, 0]).relu()
    return mlp.outer[which, 0] @ hidden + mlp.outer_bias[which, 0, 0]


@pytest.mark.parametrize("kind", [LearnedPropagation, LearnedPerNodePropagation])
def test_learned_equals_the_loop(kind):
    module, s = scores(kind)
    torch.nn.init.constant_(module.tau, 0.7)
    logits = torch.stack([torch.stack([path_logit(module, row, t) for t in range(15)]) for row in s])
    levels = [(logits[:, module.tree.level(d)] * math.exp(0.7)).softmax(1) for d in range(4)]
    torch.testing.assert_close(module(s).exp(), torch.cat(levels, 1))


def test_consistent_equals_the_loop():
    module, s = scores(ConsistentPropagation)
    leaves = torch.stack([torch.stack([path_logit(module, row, t) for t in range(7, 15)]) for row in s])
    torch.testing.assert_close(module(s)[:, 7:].exp(), leaves.softmax(1))


def test_leaf_softmax_is_a_softmax():
    module, s = scores(LeafSoftmaxPropagation)
    torch.testing.assert_close(module(s)[:, 7:].exp(), s.softmax(1))


@pytest.mark.parametrize("kind", KINDS)
def test_inputs(kind):
    assert build_propagation(kind, 3).inputs == INPUTS[kind]


@settings(deadline=None, max_examples=25)
@given(depth=st.integers(1, 5), std=st.sampled_from([0.0, 1.0, 50.0]), seed=st.integers(0, 99))
@pytest.mark.parametrize("kind", KINDS)
def test_every_level_sums_to_one(kind, depth, std, seed):
    torch.manual_seed(seed)
    module = build_propagation(kind, depth).eval()
    log_probs = module(torch.randn(3, module.inputs) * std)
    assert log_probs.shape == (3, Tree(depth).nodes)
    for d in range(depth + 1):
        torch.testing.assert_close(log_probs[:, Tree(depth).level(d)].logsumexp(1), torch.zeros(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_parents_are_sums_of_their_children_where_promised(kind):
    module, s = scores(kind)
    p = module(s).exp()
    children = p[:, 1:].unflatten(1, (7, 2)).sum(2)
    assert module.exact_hierarchy == (kind in EXACT)
    assert torch.allclose(p[:, :7], children, atol=1e-12) == (kind in EXACT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_shallower_depth_is_a_prefix(kind, depth):
    module, s = scores(kind)
    nodes = 2 ** (depth + 1) - 1
    torch.testing.assert_close(module(s[:, : module.scores_for(depth)], depth), module(s)[:, :nodes])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind):
    module, s = scores(kind, depth=2, batch=2)
    assert gradcheck(lambda s, *_: module(s), (s.requires_grad_(), *module.parameters()))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_stay_finite_where_probabilities_underflow(kind):
    module, s = scores(kind, std=1e4)
    module, s = module.float(), s.float().requires_grad_()
    log_probs = module(s)
    assert (log_probs.exp() == 0).any() or kind in (
        LearnedPropagation,
        LearnedPerNodePropagation,
        ConsistentPropagation,
    )
    log_probs.sum().backward()
    assert s.grad.isfinite().all()


@pytest.mark.parametrize("kind", [LearnedPropagation, LearnedPerNodePropagation, ConsistentPropagation])
def test_temperature_is_clamped_and_still_learns(kind):
    module, s = scores(kind)
    torch.nn.init.constant_(module.tau, 50.0)
    far = module(s)
    far[:, -1].sum().backward()
    assert module.tau.grad.abs() > 0
    torch.nn.init.constant_(module.tau, math.log(30.0))
    torch.testing.assert_close(far, module(s))


def test_dropout_only_in_training():
    module, s = scores(LearnedPropagation, depth=6)
    assert torch.equal(module(s), module(s))
    module.train()
    assert not torch.equal(module(s), module(s))


def test_a_balanced_product_sends_half_of_the_texts_each_way():
    """With hard decisions the offset of a split is minus the mean score of the texts that reach it."""
    s = torch.tensor([[100.0, 30.0, 7.0], [200.0, 50.0, 7.0], [-100.0, 7.0, -20.0], [-400.0, 7.0, -60.0]])
    torch.testing.assert_close(ProductPropagation(2).balancing_offsets(s), torch.tensor([50.0, -40.0, 40.0]))


@pytest.mark.parametrize("kind", [LearnedPropagation, ConsistentPropagation, LeafSoftmaxPropagation])
def test_other_propagations_balance_by_the_plain_mean(kind):
    module, s = scores(kind)
    torch.testing.assert_close(module.balancing_offsets(s), -s.mean(0))


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: ProductPropagation(0), "depth"),
        (lambda: build_propagation(LearnedPropagation, 3, dropout=1.0), "propagation_dropout"),
        (lambda: ProductPropagation(3)(torch.zeros(1, 7), 4), "depth"),
        (lambda: ProductPropagation(3)(torch.zeros(1, 6)), "scores"),
    ],
)
def test_bad_arguments_are_named(call, field):
    with pytest.raises(ValueError, match=f"^{field}: .*got"):
        call()

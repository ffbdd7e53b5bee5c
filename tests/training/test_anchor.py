"""Weights are pulled to their start, level by level."""

import pytest
import torch

from retreever.config import Config
from retreever.training.anchor import Anchor
from retreever.training.learner import build_learner, build_optimizer
from tests.support.trees import build_tree


@pytest.mark.parametrize("split", ["linear", "mlp", "cross_attention"])
def test_the_pull_leaves_the_share_that_its_level_says(split):
    tree = build_tree(8, depth=3, split=split, d_emb=4, d_k=4, heads=2)
    anchor = Anchor(tree, (1.0, 2.0), decay=0.0)
    start = {name: weight.detach().clone() for name, weight in tree.split.named_parameters()}
    with torch.no_grad():
        for weight in tree.split.parameters():
            weight += 1
    anchor.pull(tree, lr=0.1)
    for name, weight in tree.split.named_parameters():
        left = weight.detach() - start[name]
        axis = tree.split.output_axes.get(name)
        if weight.ndim == 1:
            expected = torch.ones(())  # offsets and biases move freely
        elif axis is None:
            expected = torch.tensor(0.9)
        else:
            levels = torch.tensor([0.9, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8])
            expected = levels.view([-1 if dim == axis else 1 for dim in range(weight.ndim)])
        torch.testing.assert_close(left, expected.expand_as(left), atol=1e-5, rtol=1e-5)


def test_a_level_without_strength_decays_to_zero():
    tree = build_tree(8, depth=3)
    anchor = Anchor(tree, (0.0, 0.0, 2.0), decay=1.5)
    anchor.set_start(tree)
    start = tree.split.readout.detach().clone()
    with torch.no_grad():
        tree.split.readout += 1
    anchor.pull(tree, lr=0.1)
    torch.testing.assert_close(tree.split.readout[:3].detach(), 0.85 * (start[:3] + 1))
    torch.testing.assert_close(tree.split.readout[3:].detach(), start[3:] + 0.8)


def test_a_pull_never_passes_the_start():
    tree = build_tree(8, depth=2)
    anchor = Anchor(tree, (50.0,), decay=0.0)
    with torch.no_grad():
        tree.split.readout += 1
    anchor.pull(tree, lr=0.1)
    torch.testing.assert_close(tree.split.readout.detach(), anchor.start.readout)


def test_anchored_weights_do_not_decay_to_zero():
    for anchor, decayed in ((1.6, 0), (0, 1)):
        config = Config().with_overrides({"tree.anchor": anchor, "tree.depth": 3})
        learner = build_learner(config, 8)
        groups = build_optimizer(learner, config).param_groups
        assert [len(group["params"]) for group in groups if group["weight_decay"]] == ([decayed] if decayed else [0])
        assert (learner.anchor is None) == (anchor == 0)

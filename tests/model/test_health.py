import math

import pytest
import torch

from retreever.model import ProductPropagation, Tree, health
from tests.support.trees import build_tree

TREE = Tree(3)


def nodes_of(leaves):
    """All nodes in heap order from leaf probabilities (texts, 8)."""
    levels = [leaves]
    while levels[0].shape[1] > 1:
        levels.insert(0, levels[0].unflatten(1, (-1, 2)).sum(2))
    return torch.cat(levels, 1).log()


def test_hard_routing_to_every_leaf():
    figures = health.measure_routing(nodes_of(torch.eye(8).repeat(4, 1)), TREE)
    assert figures["empty_leaves"] == 0
    assert figures["leaf_entropy_bits"] == figures["occupancy_entropy_bits"] == pytest.approx(3)
    assert figures["effective_leaves"] == figures["top_leaf_probability"] == 1
    assert figures["largest_leaf_share"] == 1 / 8
    assert [figures[f"routing_entropy_bits/level_{d:02d}"] for d in (1, 2, 3)] == [0, 0, 0]
    assert health.find_routing_failures(figures) == []


def test_uniform_routing():
    figures = health.measure_routing(nodes_of(torch.full((32, 8), 1 / 8)), TREE)
    assert figures["effective_leaves"] == pytest.approx(8)
    assert [figures[f"routing_entropy_bits/level_{d:02d}"] for d in (1, 2, 3)] == pytest.approx([1, 2, 3])
    assert figures["leaf_entropy_bits"] == pytest.approx(3)
    assert "near-uniform routing" in health.find_routing_failures(figures)


def test_collapse():
    leaves = torch.full((40, 8), 0.01)
    leaves[:, 5] = 0.93
    figures = health.measure_routing(nodes_of(leaves), TREE)
    assert figures["empty_leaves"] == 7
    assert figures["largest_leaf_share"] == pytest.approx(0.93)
    assert figures["top_leaf_probability"] == pytest.approx(0.93)
    assert figures["occupancy_entropy_bits"] == 0
    assert health.find_routing_failures(figures) == ["collapse", "dead leaves"]


def test_leaves_that_few_texts_leave_empty_are_not_dead():
    figures = health.measure_routing(nodes_of(torch.eye(8)[:2]), TREE)
    assert figures["empty_leaves"] == 6
    assert health.find_routing_failures(figures) == []


def test_half_sure_texts_touch_two_leaves():
    leaves = (torch.eye(8) + torch.eye(8).roll(1, 1)) / 2
    figures = health.measure_routing(nodes_of(leaves), TREE)
    assert figures["effective_leaves"] == pytest.approx(2)
    assert figures["routing_entropy_bits/level_03"] == pytest.approx(1)


def test_a_level_no_better_than_chance_is_useless():
    figures = health.measure_routing(nodes_of(torch.eye(8)), TREE)
    assert health.find_routing_failures(figures, {1: 0.05, 3: 0.4}, chance=0.1) == ["useless coarse levels"]
    assert health.find_routing_failures(figures, {1: 0.15, 3: 0.4}, chance=0.1) == []


def test_a_fresh_tree_is_named_near_uniform_and_a_sharp_one_is_not():
    torch.manual_seed(0)
    tree = build_tree(32, depth=8, init_std=0.05, init_growth=0.0)
    x = torch.randn(2000, 32)
    tree.calibrate(x)
    assert health.find_routing_failures(health.measure_routing(tree(x), tree.tree)) == ["near-uniform routing"]
    tree.spread.gain.mul_(20.0)
    assert health.find_routing_failures(health.measure_routing(tree(x), tree.tree)) == []


def test_figures_are_finite_where_probabilities_underflow():
    torch.manual_seed(0)
    figures = health.measure_routing(ProductPropagation(3)(torch.randn(20, 7) * 1e4), TREE)
    assert all(math.isfinite(value) for value in figures.values())


@pytest.mark.parametrize("shape", [(0, 15), (4, 7)])
def test_the_wrong_nodes_are_refused(shape):
    with pytest.raises(ValueError, match=r"^log_probs: must .*got"):
        health.measure_routing(torch.zeros(shape), TREE)

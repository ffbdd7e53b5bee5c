"""Health of routing: closed forms of the figures, and failures that appear where they are and only there."""

import math

import pytest
import torch

from retreever.model import ProductPropagation, Tree, health
from tests.support.trees import build_tree

TREE = Tree(3)


def nodes_of(leaves):
    """Probabilities of all nodes in heap order from those of the leaves (texts, 2**depth)."""
    levels = [leaves]
    while levels[0].shape[1] > 1:
        levels.insert(0, levels[0].unflatten(1, (-1, 2)).sum(2))
    return torch.cat(levels, 1)


def names(figures):
    return [failure.name for failure in health.find_routing_failures(figures)]


def by_level(figures, name, depth=3):
    return [figures[f"{name}/level_{d:02d}"] for d in range(1, depth + 1)]


def split_alike(branch, depth, texts=500):
    """Leaves of texts that take one branch of every split with probability `branch`, drawn at random which."""
    torch.manual_seed(0)
    nodes = [torch.ones(texts, 1)]
    for d in range(depth):
        left = torch.where(torch.rand(texts, 2**d) < 0.5, branch, 1 - branch)
        nodes.append(torch.stack([nodes[-1] * left, nodes[-1] * (1 - left)], 2).flatten(1))
    return nodes[-1]


def test_hard_routing_to_every_leaf():
    figures = health.measure_routing(nodes_of(torch.eye(8).repeat(4, 1)), TREE)
    assert figures["health/empty_leaves"] == 0
    assert figures["health/occupancy_entropy_bits"] == pytest.approx(3)
    assert figures["health/top_leaf_probability"] == figures["health/leaves_for_90_percent"] == 1
    assert figures["health/largest_leaf_share"] == 1 / 8
    assert by_level(figures, "effective_nodes") == [1, 1, 1]
    assert by_level(figures, "health/routing_entropy_bits") == [0, 0, 0]
    assert by_level(figures, "health/even_splits") == [0, 0, 0]
    assert by_level(figures, "health/largest_node_share") == [1 / 2, 1 / 4, 1 / 8]
    assert names(figures) == []


def test_uniform_routing():
    figures = health.measure_routing(nodes_of(torch.full((32, 8), 1 / 8)), TREE)
    assert by_level(figures, "effective_nodes") == pytest.approx([2, 4, 8])
    assert by_level(figures, "health/routing_entropy_bits") == pytest.approx([1, 2, 3])
    assert by_level(figures, "health/even_splits") == [1, 1, 1]
    assert figures["health/leaves_for_90_percent"] == 8  # seven hold 87.5 %
    assert "near-uniform routing" in names(figures)


def test_even_splits_are_counted_where_a_text_goes():
    leaves = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.27, 0.23, 0.1, 0.4]])
    figures = health.measure_routing(nodes_of(leaves), Tree(2))
    assert by_level(figures, "health/even_splits", 2) == pytest.approx([1 / 2, 2 / 3])


def test_collapse():
    leaves = torch.full((40, 8), 0.01)
    leaves[:, 5] = 0.93
    figures = health.measure_routing(nodes_of(leaves), TREE)
    assert figures["health/empty_leaves"] == 7
    assert figures["health/largest_leaf_share"] == pytest.approx(0.93)
    assert figures["health/top_leaf_probability"] == pytest.approx(0.93)
    assert figures["health/occupancy_entropy_bits"] == 0
    collapse, dead = health.find_routing_failures(figures)
    assert str(collapse).startswith("collapse: one of 8 leaves holds 93% of all probability (try a lower loss.scale")
    assert (
        dead.name == "dead leaves"
        and dead.sign == "1 of 8 leaves are some text's most probable one, by chance 8 " + ("would be")
    )


def test_a_tree_that_leans_to_one_node_has_collapsed_though_its_probability_is_spread():
    leaves = torch.full((40, 8), 0.1)
    leaves[:24, 5] = leaves[24:, 2] = 0.3
    (collapse, *_) = health.find_routing_failures(health.measure_routing(nodes_of(leaves), TREE))
    assert collapse.sign == "one of 8 nodes at level 3 is the most probable one of 60% of the texts"


def test_leaves_that_few_texts_leave_empty_are_not_dead():
    figures = health.measure_routing(nodes_of(torch.eye(8)[:2]), TREE)
    assert figures["health/empty_leaves"] == 6
    assert names(figures) == []


def test_half_sure_texts_touch_two_leaves():
    leaves = (torch.eye(8) + torch.eye(8).roll(1, 1)) / 2
    figures = health.measure_routing(nodes_of(leaves), TREE)
    assert figures["effective_nodes/level_03"] == pytest.approx(2)
    assert figures["health/leaves_for_90_percent"] == 2
    assert figures["health/routing_entropy_bits/level_03"] == pytest.approx(1)


def test_a_level_no_better_than_chance_is_useless():
    figures = health.measure_routing(nodes_of(torch.eye(8)), TREE) | {health.CHANCE_FIGURE: 0.1}
    (failure,) = health.find_routing_failures(figures | {"ndcg_at_10/level_01": 0.05, "ndcg_at_10/level_03": 0.4})
    assert (failure.name, failure.sign) == ("useless coarse levels", "no better than chance at level 1")
    assert names(figures | {"ndcg_at_10/level_01": 0.15, "ndcg_at_10/level_03": 0.4}) == []
    assert names(figures | {"routing_agreement/level_01": -0.01}) == ["useless coarse levels"]


def test_splits_near_even_on_the_upper_levels_are_named_whatever_the_leaves_do():
    """As the tree of the docstrings: nearly all of 16 and 64 nodes, most first splits even, but 804 of 1,024 leaves."""
    upper = nodes_of(split_alike(0.54, 6))[:, Tree(6).level(6)]
    leaves = (upper[:, :, None] * split_alike(0.7, 4)[:, None, :]).flatten(1)
    figures = health.measure_routing(nodes_of(leaves), Tree(10))
    assert figures["effective_nodes/level_10"] < 0.8 * 1024
    (failure,) = [f for f in health.find_routing_failures(figures) if f.name == "near-uniform routing"]
    assert failure.sign == (
        "a text spreads over 62.8 of 64 nodes at level 6, the first split is even for 100% of the texts"
    )
    assert "ranking is not harmed" in failure.remedy


@pytest.mark.parametrize(("branch", "named"), [(0.55, True), (0.7, False), (0.99, False)])
def test_branches_decide_whether_routing_is_near_uniform(branch, named):
    figures = health.measure_routing(nodes_of(split_alike(branch, 6)), Tree(6))
    assert ("near-uniform routing" in names(figures)) == named


def test_a_fresh_tree_is_named_near_uniform_and_a_sharp_one_is_not():
    torch.manual_seed(0)
    tree = build_tree(32, depth=8, init_std=0.05, init_growth=0.0)
    x = torch.randn(2000, 32)
    tree.calibrate(x)
    with torch.no_grad():
        assert names(health.measure_routing(tree(x).exp(), tree.tree)) == ["near-uniform routing"]
        tree.spread.gain.mul_(20.0)
        assert names(health.measure_routing(tree(x).exp(), tree.tree)) == []


def test_figures_are_finite_where_probabilities_underflow():
    torch.manual_seed(0)
    figures = health.measure_routing(ProductPropagation(3)(torch.randn(20, 7) * 1e4).exp(), TREE)
    assert all(math.isfinite(value) for value in figures.values())


@pytest.mark.parametrize("shape", [(0, 15), (4, 7)])
def test_the_wrong_nodes_are_refused(shape):
    with pytest.raises(ValueError, match=r"^nodes: must .*got"):
        health.measure_routing(torch.zeros(shape), TREE)


def test_agreement_is_one_where_pairs_go_together_and_zero_where_they_are_drawn_independently():
    torch.manual_seed(0)
    passages = nodes_of(torch.eye(8)[torch.randint(0, 8, (4000,))])
    rows = torch.arange(4000)
    same = health.measure_agreement(passages, passages, torch.stack([rows, rows], 1), TREE)
    assert by_level(same, "routing_agreement") == [1, 1, 1] and same["health/common_depth"] == 3
    drawn = health.measure_agreement(passages, passages, torch.stack([rows, torch.randperm(4000)], 1), TREE)
    assert by_level(drawn, "routing_agreement") == pytest.approx([0, 0, 0], abs=0.05)
    assert drawn["health/common_depth"] == pytest.approx(1 / 2 + 1 / 4 + 1 / 8, abs=0.05)


def test_agreement_counts_above_what_the_shares_of_the_nodes_give():
    """Queries lie on nodes 0, 0, 0, 1 of level 1, their passages on 0, 0, 1, 1: a = 3/4, c = 3/8 + 1/8."""
    queries, passages = (nodes_of(torch.eye(2)[sides]) for sides in ([0, 0, 0, 1], [0, 0, 1, 1]))
    pairs = torch.arange(4)[:, None].expand(4, 2)
    figures = health.measure_agreement(queries, passages, pairs, Tree(1))
    assert figures["routing_agreement/level_01"] == pytest.approx((3 / 4 - 1 / 2) / (1 - 1 / 2))
    assert figures["health/common_depth"] == 3 / 4


def test_texts_that_all_lie_on_one_node_do_not_agree_above_chance():
    nodes = nodes_of(torch.eye(8)[[3, 3, 3]])
    figures = health.measure_agreement(nodes, nodes, torch.tensor([[0, 1], [1, 2]]), TREE)
    assert by_level(figures, "routing_agreement") == [0, 0, 0]


def test_pairs_that_meet_by_chance_alone_are_weak_topics():
    figures = health.measure_routing(nodes_of(torch.eye(8).repeat(9, 1)), TREE)
    (failure,) = health.find_routing_failures(figures | {"routing_agreement/level_03": 0.04})
    assert failure.name == "weak topics" and "agreement 0.04 of 1" in failure.sign
    assert names(figures | {"routing_agreement/level_03": 0.2}) == []

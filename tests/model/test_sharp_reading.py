"""The sharp reading: the same branches times a factor, sums that add up, and the factor for so many effective nodes."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from retreever.model.sharp_reading import BETA_RANGE, count_effective_nodes, find_sharpness, sharpen
from retreever.model.tree import Tree
from tests.support.nodes import draw_nodes

DEPTH = 5


def draw_leaves(rows=40, depth=DEPTH, shape=5.0):
    return torch.from_numpy(draw_nodes(rows, depth, shape=shape)[:, Tree(depth).level(depth)])


def sharpen_slowly(leaves, beta, node=0):
    """Every text's way down, one split after another: probabilities of all nodes, by heap index."""
    depth = int(math.log2(len(leaves)))
    nodes = np.zeros(Tree(depth).nodes)
    nodes[0] = 1

    def mass(t):
        level = (t + 1).bit_length() - 1
        span = 2 ** (depth - level)
        first = (t - (2**level - 1)) * span
        return leaves[first : first + span].sum()

    for t in range(Tree(depth).splits):
        score = math.log(mass(2 * t + 1)) - math.log(mass(2 * t + 2))
        nodes[2 * t + 1] = nodes[t] / (1 + math.exp(-beta * score))
        nodes[2 * t + 2] = nodes[t] / (1 + math.exp(beta * score))
    return nodes


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0, 20.0])
def test_it_equals_the_slow_walk(beta):
    leaves = draw_leaves(6)
    expected = np.stack([sharpen_slowly(row.astype(np.float64), beta) for row in leaves.numpy()])
    np.testing.assert_allclose(sharpen(leaves, beta), expected, atol=2e-5)


def test_a_factor_of_one_gives_the_soft_reading_back():
    nodes = torch.from_numpy(draw_nodes(40, DEPTH))
    torch.testing.assert_close(sharpen(nodes[:, Tree(DEPTH).level(DEPTH)], 1.0), nodes, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("beta", [1.0, 7.0, 1e4])
def test_levels_sum_to_one_and_a_parent_to_its_children(beta):
    nodes = sharpen(draw_leaves(), beta)
    for d in range(DEPTH + 1):
        torch.testing.assert_close(nodes[:, Tree(DEPTH).level(d)].sum(1), torch.ones(40))
    torch.testing.assert_close(nodes[:, 1::2] + nodes[:, 2::2], nodes[:, : Tree(DEPTH).splits])
    assert nodes.min() >= 0


def test_a_larger_factor_is_sharper_and_keeps_the_side_of_every_split():
    leaves = draw_leaves()
    soft, sharp = sharpen(leaves, 1.0), sharpen(leaves, 6.0)
    assert ((soft[:, 1::2] > soft[:, 2::2]) == (sharp[:, 1::2] > sharp[:, 2::2])).all()
    means = [
        count_effective_nodes(sharpen(leaves, beta)[:, Tree(DEPTH).level(DEPTH)]).mean()
        for beta in (1.0, 2.0, 4.0, 8.0)
    ]
    assert all(after < before for before, after in pairwise(means))


def test_a_branch_that_nobody_takes_is_even_and_nothing_is_nan():
    leaves = torch.zeros(1, 8)
    leaves[0, 5] = 1
    nodes = sharpen(leaves, 50.0)
    assert nodes.isfinite().all() and nodes[0, 7 + 5] == 1
    assert nodes[0, 3] == nodes[0, 4] == 0
    uniform = sharpen(torch.full((1, 8), 0.125), 1e4)
    torch.testing.assert_close(uniform[0, 7:], torch.full((8,), 0.125))


def test_effective_nodes_count_an_even_spread():
    rows = torch.zeros(4, 16)
    for row, count in enumerate((1, 2, 4, 16)):
        rows[row, :count] = 1 / count
    torch.testing.assert_close(count_effective_nodes(rows), torch.tensor([1.0, 2.0, 4.0, 16.0]))


@pytest.mark.parametrize("effective", [1.5, 4.0, 12.0])
def test_the_factor_that_is_found_gives_the_effective_nodes_wanted(effective):
    leaves = draw_leaves(200)
    beta = find_sharpness(leaves, effective)
    nodes = sharpen(leaves, beta)[:, Tree(DEPTH).level(DEPTH)]
    assert count_effective_nodes(nodes).mean() == pytest.approx(effective, rel=1e-3)


def test_the_ends_of_the_range():
    leaves = draw_leaves(200)
    assert find_sharpness(leaves, 31.9) == find_sharpness(leaves, 64.0) == BETA_RANGE[0]  # soft enough as it is
    assert find_sharpness(torch.full((5, 8), 0.125), 2.0) == BETA_RANGE[1]  # even splits have no sharp reading


def test_the_factor_of_a_level_is_that_of_sums_of_a_deeper_one():
    deeper = draw_leaves(depth=DEPTH + 2)
    level = deeper.reshape(40, 2**DEPTH, 4).sum(2)
    beta = find_sharpness(level, 3.0)
    torch.testing.assert_close(
        sharpen(level, beta), sharpen(deeper, beta)[:, : Tree(DEPTH).nodes], atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize("width", [1, 3, 12])
def test_nodes_that_are_no_level_are_refused(width):
    with pytest.raises(ValueError, match=f"must be those of the 2\\*\\*d nodes of a level below the root, got {width}"):
        sharpen(torch.ones(2, width), 2.0)


def test_factors_and_counts_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"beta: must be finite and above 0, got 0\.0"):
        sharpen(draw_leaves(2), 0.0)
    with pytest.raises(ValueError, match=r"effective: must be at least 1, got 0\.5"):
        find_sharpness(draw_leaves(2), 0.5)

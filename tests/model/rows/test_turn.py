"""A turn keeps distances between scores, and sends a pair the same way."""

import pytest
import torch
import torch.nn.functional as F

from retreever.model.rows.turn import find_turns, turn_scores
from tests.support.trees import build_tree

GROUPS = (slice(0, 3), slice(3, 15))


def pairs(count: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of queries and passages of sixteen topics, told apart by none of the splits alone."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(16, 15, generator=generator)
    own = torch.arange(count) % 16
    return tuple(centres[own] + 0.2 * torch.randn(count, 15, generator=generator) for _ in range(2))


def agreement(queries: torch.Tensor, passages: torch.Tensor) -> float:
    def leaf(scores):
        node = torch.zeros(len(scores), dtype=torch.long)
        for level in range(4):
            own = scores[torch.arange(len(scores)), 2**level - 1 + node]
            node = 2 * node + (own < 0)
        return node

    return (leaf(queries) == leaf(passages)).float().mean().item()


def test_turns_are_orthogonal_and_keep_distances():
    queries, passages = pairs()
    turns = find_turns(queries, passages, GROUPS, torch.Generator().manual_seed(0))
    for turn in turns:
        torch.testing.assert_close(turn @ turn.T, torch.eye(len(turn)), atol=1e-4, rtol=0)
    turned = [turn_scores(side, GROUPS, turns) for side in (queries, passages)]
    for group in GROUPS:
        before, after = (torch.cdist(a[:, group], b[:, group]) for a, b in ((queries, passages), turned))
        torch.testing.assert_close(before, after, atol=1e-3, rtol=1e-3)


def test_pairs_agree_more_after_a_turn():
    queries, passages = pairs()
    turns = find_turns(queries, passages, GROUPS, torch.Generator().manual_seed(0))
    turned = [turn_scores(side, GROUPS, turns) for side in (queries, passages)]
    assert agreement(*turned) > agreement(queries, passages) + 0.1


@pytest.mark.parametrize("split", ["linear", "mlp"])
def test_a_turned_tree_ranks_as_before(split):
    generator = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(300, 24, generator=generator), dim=1)
    tree = build_tree(24, split=split, depth=7, init_std=0.05)
    tree.calibrate(x)
    tree.eval()
    before = tree(x).detach()
    tree.turn(x[:150], x[150:], seed=0)
    after = tree(x).detach()
    for level in (4, 6, 7):
        a, b = ((tree.level(nodes, level) / 2).exp() for nodes in (before, after))
        similarities = [(roots[:1] @ roots[1:].T)[0] for roots in (a, b)]
        assert torch.corrcoef(torch.stack(similarities))[0, 1] > 0.999
    assert (before - after).abs().max() > 0.01


@pytest.mark.parametrize("settings", [{"split": "cross_attention"}, {"propagation": "leaf_softmax"}])
def test_a_tree_whose_scores_are_no_rows_is_left_alone(settings):
    tree = build_tree(24, depth=4, **settings)
    before = {name: value.clone() for name, value in tree.state_dict().items()}
    tree.turn(torch.randn(9, 24), torch.randn(9, 24), seed=0)
    assert all(torch.equal(before[name], value) for name, value in tree.state_dict().items())

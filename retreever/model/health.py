"""Health of a tree's routing: how texts spread over it, level by level, and the failures that this shows, by name.

    effective nodes    2^H, H = -sum_l p_l log2 p_l over the nodes of a level: p fills as many nodes as if evenly
    even split         its branch probability lies within EVEN_BRANCHES
    agreement          (a - c) / (1 - c): a, share of pairs of query and relevant passage whose most probable node is
                       the same; c, the same for texts of these pairs drawn independently of each other

    collapse               one node holds most of the texts
    near-uniform routing   a text goes nearly everywhere on the upper levels, so that no way can be followed
    weak topics            query and passage share a node hardly more often than by independent routing
    dead leaves            far fewer leaves are some text's most probable leaf than chance alone would give
    useless coarse levels  a level ranks, or routes pairs together, no better than chance

No figure needs a label of a topic. Collapse, near-uniform routing and useless coarse levels are the paper's; figures
and thresholds are ours. Figures have the names under which they are logged. Near-uniform routing says nothing of
ranking: the best trees that we have measured fill 62 of 64 nodes.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from retreever.model.sharp_reading import count_effective_nodes
from retreever.model.tree import Tree

CHANCE_FIGURE = "health/chance"
"""Figure with the NDCG@10 that a random ranking does not exceed on average."""
UPPER_LEVEL = 6
"""Last level that a person reads; routing is judged there, or at the last level of a shallower tree."""
EVEN_BRANCHES = (0.45, 0.55)
COLLAPSE_THRESHOLD = 0.5  # share of all texts, or of their probability, on one node
NEAR_UNIFORM_THRESHOLD = 0.9  # effective nodes of the average text, as a share of the nodes: splits of about .6
WEAK_AGREEMENT_THRESHOLD = 0.1  # agreement above chance
DEAD_LEAVES_THRESHOLD = 0.5  # leaves in use, as a share of the leaves that as many texts would fill by chance
REACHED = 1e-20  # a split that a text reaches with less has no branch probability in float32
TEXTS_PER_SORT = 512  # leaves of so many texts are sorted at once


class RoutingFailure(NamedTuple):
    """A failure of routing: its name, the figures that show it, and what to try."""

    name: str
    sign: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.name}: {self.sign} ({self.remedy})"


@torch.no_grad()
def measure_routing(nodes: Float[Tensor, "texts nodes"], tree: Tree) -> dict[str, float]:
    """Figures of how a sample of texts spreads over the nodes.

    Args:
        nodes: probabilities of all nodes in heap order.

    Returns:
        effective_nodes/level_DD: mean over texts; 1 to 2**DD.
        health/even_splits/level_DD: share of texts times the splits above that level which are even.
        health/largest_node_share/level_DD: share of texts on the node that is most often the most probable one.
        health/routing_entropy_bits/level_DD: entropy of a text over the level, mean over texts; at most DD.
        health/empty_leaves: leaves that are no text's most probable leaf.
        health/occupancy_entropy_bits: entropy of the share of texts by most probable leaf; at most the depth.
        health/top_leaf_probability: of a text's most probable leaf, mean over texts.
        health/leaves_for_90_percent: leaves that hold 90 % of a text's probability, the fullest first; mean.
        health/largest_leaf_share: probability of all texts that lies on the fullest leaf.
        health/texts, health/leaves: sizes of the sample and of the tree.

    Raises:
        ValueError: no texts, or not the nodes of `tree`.
    """
    texts = len(nodes)
    if nodes.shape[1] != tree.nodes or not texts:
        raise ValueError(f"nodes: must be (at least 1 text, {tree.nodes} nodes), got {tuple(nodes.shape)}")
    figures = {name: value for d in range(1, tree.depth + 1) for name, value in _measure_level(nodes, tree, d).items()}
    leaves = nodes[:, tree.level(tree.depth)]
    top, best = leaves.max(1)
    counts = torch.bincount(best, minlength=tree.leaves)
    shares = (counts / texts).to(leaves.dtype)
    return figures | {
        "health/empty_leaves": float((counts == 0).sum()),
        "health/occupancy_entropy_bits": float(count_effective_nodes(shares[None]).log2()),
        "health/top_leaf_probability": float(top.mean()),
        "health/leaves_for_90_percent": _count_leaves_for(0.9, leaves),
        "health/largest_leaf_share": float(leaves.mean(0).max()),
        "health/texts": float(texts),
        "health/leaves": float(tree.leaves),
    }


def _measure_level(nodes: Float[Tensor, "texts nodes"], tree: Tree, d: int) -> dict[str, float]:
    level = nodes[:, tree.level(d)]
    left, right = level[:, 0::2], level[:, 1::2]
    reached = left + right > REACHED
    branches = (left / (left + right))[reached]
    even = (branches >= EVEN_BRANCHES[0]) & (branches <= EVEN_BRANCHES[1])
    effective = count_effective_nodes(level)
    largest = torch.bincount(level.argmax(1)).max() / len(level)
    return {
        _name_figure("effective_nodes", d): float(effective.mean()),
        _name_figure("health/even_splits", d): float(even.double().mean()),
        _name_figure("health/largest_node_share", d): float(largest),
        _name_figure("health/routing_entropy_bits", d): float(effective.log2().mean()),
    }


def _count_leaves_for(share: float, leaves: Float[Tensor, "texts leaves"]) -> float:
    """Mean number of leaves, the fullest first, that hold a share of a text's probability."""
    counts = [
        1 + (part.sort(1, descending=True).values.cumsum(1) < share).sum(1).clamp_max(part.shape[1] - 1)
        for part in leaves.split(TEXTS_PER_SORT)
    ]
    return float(torch.cat(counts).double().mean())


@torch.no_grad()
def measure_agreement(
    queries: Float[Tensor, "queries nodes"],
    passages: Float[Tensor, "passages nodes"],
    pairs: Int[Tensor, "pairs 2"],
    tree: Tree,
) -> dict[str, float]:
    """How often a query and its relevant passage have the same most probable node.

    Args:
        queries, passages: probabilities of all nodes in heap order.
        pairs: rows of a query and of a passage that is relevant to it; at least one.

    Returns:
        routing_agreement/level_DD: above chance; 1: always, 0: as by independent routing.
        health/common_depth: level down to which both have the same most probable nodes, mean over pairs; 0: the root.
    """
    figures = {}
    together = torch.ones(len(pairs), dtype=torch.bool)
    common = torch.zeros(len(pairs))
    for d in range(1, tree.depth + 1):
        level = tree.level(d)
        ours, theirs = queries[:, level].argmax(1)[pairs[:, 0]], passages[:, level].argmax(1)[pairs[:, 1]]
        figures[_name_figure("routing_agreement", d)] = _compute_agreement(ours, theirs, 2**d)
        together = together & (ours == theirs)
        common += together
    return figures | {"health/common_depth": float(common.mean())}


def _compute_agreement(ours: Int[Tensor, " pairs"], theirs: Int[Tensor, " pairs"], nodes: int) -> float:
    shares = [torch.bincount(side, minlength=nodes).double() / len(side) for side in (ours, theirs)]
    chance = float(shares[0] @ shares[1])
    if chance > 1 - 1e-9:  # all texts are on one node, which tells nothing
        return 0.0
    return (float((ours == theirs).double().mean()) - chance) / (1 - chance)


def find_routing_failures(figures: Mapping[str, float]) -> list[RoutingFailure]:
    """The failures that `figures` show; none for a healthy tree.

    Args:
        figures: from `measure_routing`; where they were measured, also those of `measure_agreement`,
            `ndcg_at_10/level_DD` and `CHANCE_FIGURE`.
    """
    depth = round(math.log2(figures["health/leaves"]))
    found = (
        _find_collapse(figures, depth),
        _find_near_uniform_routing(figures, min(UPPER_LEVEL, depth)),
        _find_weak_topics(figures, min(UPPER_LEVEL, depth)),
        _find_dead_leaves(figures),
        _find_useless_levels(figures, depth),
    )
    return [failure for failure in found if failure]


def _find_collapse(figures: Mapping[str, float], depth: int) -> RoutingFailure | None:
    leaves = figures["health/leaves"]
    shares = {d: figures[_name_figure("health/largest_node_share", d)] for d in range(3, depth + 1)}
    full = [d for d, share in shares.items() if share > COLLAPSE_THRESHOLD and figures["health/texts"] > 2**d]
    if figures["health/largest_leaf_share"] > COLLAPSE_THRESHOLD:
        sign = f"one of {leaves:,.0f} leaves holds {figures['health/largest_leaf_share']:.0%} of all probability"
    elif full:
        sign = f"one of {2 ** full[-1]:,} nodes at level {full[-1]} is the most probable one of {shares[full[-1]]:.0%} "
        sign += "of the texts"
    else:
        return None
    return RoutingFailure("collapse", sign, "try a lower loss.scale, train.lr or tree.init_std")


def _find_near_uniform_routing(figures: Mapping[str, float], d: int) -> RoutingFailure | None:
    effective, first = figures[_name_figure("effective_nodes", d)], figures[_name_figure("health/even_splits", 1)]
    if effective <= NEAR_UNIFORM_THRESHOLD * 2**d:
        return None
    sign = f"a text spreads over {effective:.1f} of {2**d} nodes at level {d}, the first split is even for {first:.0%} "
    return RoutingFailure(
        "near-uniform routing",
        sign + "of the texts",
        "ranking is not harmed, read the tree by its sharp reading",
    )


def _find_weak_topics(figures: Mapping[str, float], d: int) -> RoutingFailure | None:
    agreement = figures.get(_name_figure("routing_agreement", d), 1.0)
    if agreement >= WEAK_AGREEMENT_THRESHOLD:
        return None
    return RoutingFailure(
        "weak topics",
        f"query and passage share their node of {2**d} at level {d} little more than by chance, agreement "
        f"{agreement:.2f} of 1",
        "try tree.turn=true, a higher tree.anchor or fewer steps",
    )


def _find_dead_leaves(figures: Mapping[str, float]) -> RoutingFailure | None:
    texts, leaves = figures["health/texts"], figures["health/leaves"]
    used, by_chance = leaves - figures["health/empty_leaves"], leaves * (1 - (1 - 1 / leaves) ** texts)
    if used >= DEAD_LEAVES_THRESHOLD * by_chance:
        return None
    return RoutingFailure(
        "dead leaves",
        f"{used:,.0f} of {leaves:,.0f} leaves are some text's most probable one, by chance {by_chance:,.0f} would be",
        "try a smaller tree.depth, or more pairs",
    )


def _find_useless_levels(figures: Mapping[str, float], depth: int) -> RoutingFailure | None:
    chance = figures.get(CHANCE_FIGURE, 0.0)
    useless = [
        d
        for d in range(1, depth + 1)
        if figures.get(_name_figure("ndcg_at_10", d), math.inf) <= chance
        or (d <= 3 and figures.get(_name_figure("routing_agreement", d), math.inf) <= 0)
    ]
    if not useless:
        return None
    return RoutingFailure(
        "useless coarse levels",
        f"no better than chance at level {', '.join(map(str, useless))}",
        "try depth.scheduler=all_levels, or more steps",
    )


def _name_figure(name: str, level: int) -> str:
    return f"{name}/level_{level:02d}"

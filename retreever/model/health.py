"""Health of a tree's routing: figures of how texts spread over it, and the failures that they show, by name.

    H(p) = -sum_l p_l log2 p_l, in bits; 2^H(p) leaves carry p as if evenly ("effective leaves")

    collapse               one leaf holds most of the probability of all texts
    near-uniform routing   every split sends every text both ways alike
    dead leaves            far fewer leaves are some text's most probable leaf than chance alone would give
    useless coarse levels  a level ranks no better than chance

The thresholds are ours: a freshly calibrated tree (scores of standard deviation 0.05) counts as near-uniform; the
good trees we have measured, with 70 to 930 effective leaves out of 1,024, do not.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from retreever.model.tree import Tree

COLLAPSE_THRESHOLD = 0.5  # share of the probability of all texts that lies on one leaf
NEAR_UNIFORM_THRESHOLD = 0.98  # effective leaves of the average text, as a share of all leaves
DEAD_LEAVES_THRESHOLD = 0.5  # leaves in use, as a share of the leaves that as many texts would fill by chance


@torch.no_grad()
def measure_routing(log_probs: Float[Tensor, "texts nodes"], tree: Tree) -> dict[str, float]:
    """Figures of the routing of a sample of texts.

    Args:
        log_probs: log-probabilities of all nodes in heap order; minus infinity is allowed.

    Returns:
        texts, leaves: sizes of the sample and of the tree.
        empty_leaves: leaves that are no text's most probable leaf.
        leaf_entropy_bits: entropy of the mean leaf distribution; at most the depth.
        occupancy_entropy_bits: entropy of the share of texts by most probable leaf; at most the depth.
        effective_leaves: 2**entropy of a text's leaves, mean over texts.
        top_leaf_probability: of a text's most probable leaf, mean over texts.
        largest_leaf_share: probability of all texts that lies on the fullest leaf.
        routing_entropy_bits/level_DD: entropy of a text over level DD, mean over texts; at most DD.

    Raises:
        ValueError: no texts, or not the nodes of `tree`.
    """
    texts, nodes = log_probs.shape
    if nodes != tree.nodes or not texts:
        raise ValueError(f"log_probs: must be (at least 1 text, {tree.nodes} nodes), got {(texts, nodes)}")
    leaves = log_probs[:, tree.level(tree.depth)].exp()
    top, best = leaves.max(1)
    counts = torch.bincount(best, minlength=tree.leaves).to(leaves.dtype)
    mean = leaves.mean(0)
    figures = {
        "empty_leaves": (counts == 0).sum(),
        "leaf_entropy_bits": _entropy_bits(mean),
        "occupancy_entropy_bits": _entropy_bits(counts / texts),
        "effective_leaves": torch.exp2(_entropy_bits(leaves)).mean(),
        "top_leaf_probability": top.mean(),
        "largest_leaf_share": mean.max(),
    }
    for d in range(1, tree.depth + 1):
        entropy = _entropy_bits(log_probs[:, tree.level(d)].exp()).mean()
        figures[f"routing_entropy_bits/level_{d:02d}"] = entropy
    sizes = {"texts": float(texts), "leaves": float(tree.leaves)}
    return sizes | {name: float(value) for name, value in figures.items()}


def find_routing_failures(
    figures: Mapping[str, float], ndcg: Mapping[int, float] | None = None, chance: float = 0.0
) -> list[str]:
    """Names of the failures that `figures` show; none for a healthy tree.

    Args:
        figures: from `measure_routing`.
        ndcg: NDCG by level, where it was measured.
        chance: NDCG of a random ranking.
    """
    texts, leaves = figures["texts"], figures["leaves"]
    filled_by_chance = leaves * (1 - (1 - 1 / leaves) ** texts)
    found = {
        "collapse": figures["largest_leaf_share"] > COLLAPSE_THRESHOLD,
        "near-uniform routing": figures["effective_leaves"] > NEAR_UNIFORM_THRESHOLD * leaves,
        "dead leaves": leaves - figures["empty_leaves"] < DEAD_LEAVES_THRESHOLD * filled_by_chance,
        "useless coarse levels": any(value <= chance for value in (ndcg or {}).values()),
    }
    return [name for name, failed in found.items() if failed]


def _entropy_bits(probabilities: Float[Tensor, "*batch outcomes"]) -> Float[Tensor, "*batch"]:
    return torch.special.entr(probabilities).sum(-1) / torch.log(torch.tensor(2.0)).item()

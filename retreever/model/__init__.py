"""The paper's model, on torch alone: the tree, its loss, its health.

Settings have no defaults here: they stand in `retreever/config.py`.
"""

from retreever.model import health
from retreever.model.depth import level_probabilities, level_shares, level_weights, levels_at_step
from retreever.model.loss import ContrastiveLoss, SoftTargets, negatives_mask
from retreever.model.propagation import (
    ConsistentPropagation,
    LeafSoftmaxPropagation,
    LearnedPerNodePropagation,
    LearnedPropagation,
    ProductPropagation,
    Propagation,
)
from retreever.model.router import RoutingTree
from retreever.model.similarity import bhattacharyya, get_similarity, ntvd
from retreever.model.splits.attention import CrossAttentionSplit
from retreever.model.splits.split_function import LinearSplit, MLPSplit, SplitFunction
from retreever.model.spread import Spread
from retreever.model.tree import Tree, default_levels

__all__ = [
    "ConsistentPropagation",
    "ContrastiveLoss",
    "CrossAttentionSplit",
    "LeafSoftmaxPropagation",
    "LearnedPerNodePropagation",
    "LearnedPropagation",
    "LinearSplit",
    "MLPSplit",
    "ProductPropagation",
    "Propagation",
    "RoutingTree",
    "SoftTargets",
    "SplitFunction",
    "Spread",
    "Tree",
    "bhattacharyya",
    "default_levels",
    "get_similarity",
    "health",
    "level_probabilities",
    "level_shares",
    "level_weights",
    "levels_at_step",
    "negatives_mask",
    "ntvd",
]

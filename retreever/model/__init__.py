"""The paper's model, on torch alone: a tree of routing probabilities, and what trains and watches it."""

from retreever.model import health
from retreever.model.attention import CrossAttention
from retreever.model.depth import level_probabilities, level_shares, level_weights, levels_at
from retreever.model.loss import Beliefs, ContrastiveLoss, negatives_mask
from retreever.model.propagation import (
    Consistent,
    LeafSoftmax,
    Learned,
    LearnedPerNode,
    Product,
    Propagation,
)
from retreever.model.router import RoutingTree
from retreever.model.similarity import bhattacharyya, ntvd, similarity
from retreever.model.split import MLP, Linear, Split
from retreever.model.spread import Spread
from retreever.model.tree import Tree, default_levels

__all__ = [
    "MLP",
    "Beliefs",
    "Consistent",
    "ContrastiveLoss",
    "CrossAttention",
    "LeafSoftmax",
    "Learned",
    "LearnedPerNode",
    "Linear",
    "Product",
    "Propagation",
    "RoutingTree",
    "Split",
    "Spread",
    "Tree",
    "bhattacharyya",
    "default_levels",
    "health",
    "level_probabilities",
    "level_shares",
    "level_weights",
    "levels_at",
    "negatives_mask",
    "ntvd",
    "similarity",
]

"""The paper's model, on torch alone: the tree, its loss, its health.

Settings have no defaults here: they stand in `retreever/config.py`. Names are loaded on first use, since the tree's
topology serves where torch is not loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    "depth": ("level_probabilities", "level_shares", "level_weights", "levels_at_step"),
    "loss": ("ContrastiveLoss", "SoftTargets", "negatives_mask"),
    "propagation": (
        "ConsistentPropagation",
        "LeafSoftmaxPropagation",
        "LearnedPerNodePropagation",
        "LearnedPropagation",
        "ProductPropagation",
        "Propagation",
    ),
    "router": ("RoutingTree",),
    "similarity": ("bhattacharyya", "get_similarity", "ntvd"),
    "splits.attention": ("CrossAttentionSplit",),
    "splits.split_function": ("LinearSplit", "MLPSplit", "SplitFunction"),
    "spread": ("Spread",),
    "tree": ("Tree", "default_levels"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

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


def __getattr__(name: str) -> Any:
    if name == "health":
        return import_module("retreever.model.health")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)

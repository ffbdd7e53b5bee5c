"""Modules of the model with the settings that a test names; the others come from the configuration's defaults."""

from typing import Any

from retreever.config import DepthConfig, LossConfig, TreeConfig
from retreever.model import (
    ContrastiveLoss,
    CrossAttentionSplit,
    LearnedPropagation,
    MLPSplit,
    Propagation,
    RoutingTree,
    levels_at_step,
)


def build_tree(dim: int, **settings: Any) -> RoutingTree:
    """A tree over encodings of width `dim`."""
    return RoutingTree(dim, **TreeConfig().architecture() | settings)


def build_loss(**settings: Any) -> ContrastiveLoss:
    """A loss with one scale for all levels."""
    defaults = LossConfig().model_dump(exclude={"negatives", "scale_per_level"})
    return ContrastiveLoss(**defaults | {"levels": 1} | settings)


def build_mlp(dim: int, outputs: int, **settings: Any) -> MLPSplit:
    """A split function with a hidden layer."""
    tree = TreeConfig()
    return MLPSplit(dim, outputs, **{"hidden": tree.hidden, "dropout": tree.mlp_dropout} | settings)


def build_attention(dim: int, outputs: int, **settings: Any) -> CrossAttentionSplit:
    """A cross-attention split function."""
    tree = TreeConfig()
    defaults = tree.model_dump(include={"heads", "embeddings", "d_emb", "d_k", "values", "embedding_std"})
    return CrossAttentionSplit(dim, outputs, **defaults | {"dropout": tree.attention_dropout} | settings)


def build_propagation(kind: type[Propagation], depth: int, **settings: Any) -> Propagation:
    """A propagation of that class."""
    if issubclass(kind, LearnedPropagation):
        return kind(depth, **{"dropout": TreeConfig().propagation_dropout} | settings)
    return kind(depth, **settings)


def choose_levels(scheduler: str, depth: int, step: int, steps: int, seed: int, **settings: Any) -> tuple[int, ...]:
    """The levels of a step by `levels_at_step`."""
    defaults = DepthConfig().model_dump(include={"levels", "warmup_fraction"})
    return levels_at_step(scheduler, depth, step, steps, seed, **defaults | settings)

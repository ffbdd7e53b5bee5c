"""Decay of a split function's weights towards where they started, instead of to zero (ours).

    W <- W - lr * strength(level) * (W - W_start)        after each step of the optimiser

What a start knew is then kept as far as one wants: decay to zero leaves e^-5 of it after 600 steps of the default. The
strength of each level is the trade between the training domain and everything else.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retreever.model import RoutingTree


class Anchor(nn.Module):
    """The start of a tree's split weights, and the strength of the pull towards it.

    The start is kept as buffers, so that checkpoints have it and all workers share one.

    Args:
        tree: its present weights are the start until `set_start` is called.
        strengths: of each level of splits from the root; the last one also serves deeper levels, and those beyond the
            tree's depth are unused. Weights that all splits share have that of the root. Where it is 0, weights decay
            to zero.
        decay: strength of the decay to zero.
    """

    def __init__(self, tree: RoutingTree, strengths: Sequence[float], decay: float):
        super().__init__()
        levels = tree.propagation.score_levels.clamp_max(tree.tree.depth - 1)
        by_level = torch.tensor([strengths[min(d, len(strengths) - 1)] for d in range(tree.tree.depth)])
        self.decay, self.root_strength = decay, float(by_level[0])
        self.register_buffer("strength", by_level[levels], persistent=False)
        self.start = nn.Module()
        for name, weight in _anchored_weights(tree):
            self.start.register_buffer(_flatten_name(name), weight.detach().clone())

    @torch.no_grad()
    def set_start(self, tree: RoutingTree) -> None:
        """Take the present weights of `tree` for the start; zero where they decay to it."""
        for name, weight in _anchored_weights(tree):
            held = self._spread_strength(tree, name, weight) > 0
            self.start.get_buffer(_flatten_name(name)).copy_(weight * held)

    @torch.no_grad()
    def pull(self, tree: RoutingTree, lr: float) -> None:
        """Move the weights of `tree` towards the start, by the share lr * strength of the way, at most all of it."""
        for name, weight in _anchored_weights(tree):
            strength = self._spread_strength(tree, name, weight)
            share = lr * torch.where(strength > 0, strength, self.decay)
            weight.lerp_(self.start.get_buffer(_flatten_name(name)), share.clamp_max(1.0))

    def _spread_strength(self, tree: RoutingTree, name: str, weight: Tensor) -> Float[Tensor, "..."]:
        """The strength of every number of a weight."""
        axis = tree.split.output_axes.get(name)
        if axis is None:
            return torch.full_like(weight, self.root_strength)
        return self.strength.view([-1 if dim == axis else 1 for dim in range(weight.ndim)]).expand_as(weight)


def _anchored_weights(tree: RoutingTree) -> list[tuple[str, nn.Parameter]]:
    """Weight matrices of the split function; offsets and biases move freely."""
    return [(name, weight) for name, weight in tree.split.named_parameters() if weight.ndim > 1]


def _flatten_name(name: str) -> str:
    return name.replace(".", "_")

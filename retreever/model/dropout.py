"""Dropout that does not become the slowest part of a step on a CPU.

torch draws a float for every element; here an element costs eight random bits, and drawing is several times faster.
It matters where millions of weights are dropped: in attention and in the node MLPs.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

STEPS = 2**8


def dropped(values: Float[Tensor, "*shape"], p: float) -> Float[Tensor, "*shape"]:
    """`values` with each element zero with probability `p` and otherwise divided by the share that is kept.

    Args:
        p: at least 0, below 1; met to within 2**-9. Draws come from torch's default generator.
    """
    share = kept_share(p)
    return values if share == 1 else values * _kept(values, p).to(values.dtype).div_(share)


def kept_share(p: float) -> float:
    """The share of elements that are kept where `p` are to be dropped, never none: 1 - p within 2**-9."""
    return max(1, STEPS - round(p * STEPS)) / STEPS


def _kept(like: Float[Tensor, "*shape"], p: float) -> Bool[Tensor, "*shape"]:
    """Which elements of a tensor of that shape are kept, each with probability `kept_share(p)`."""
    total = like.numel()
    bits = torch.empty(-(-total // 8), dtype=torch.int64, device=like.device).random_(-(2**63), None)
    draws = bits.view(torch.int8)[:total].view(like.shape)
    return draws >= round((1 - kept_share(p)) * STEPS) - STEPS // 2

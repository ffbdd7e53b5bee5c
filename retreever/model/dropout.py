"""Dropout from eight random bits an element, so that it is not the slowest part of a step on a CPU.

torch draws a float for every element, which takes several times as long. That matters where millions of weights are
dropped: in attention and in the node MLPs.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

DROPOUT_RESOLUTION = 2**8


def apply_dropout(values: Float[Tensor, "*shape"], p: float) -> Float[Tensor, "*shape"]:
    """`values` with each element set to zero with probability `p`, and otherwise divided by the kept share.

    Args:
        p: at least 0, below 1; met to within 2**-9. Draws come from torch's default generator.
    """
    share = keep_probability(p)
    return values if share == 1 else values * _draw_keep_mask(values, p).to(values.dtype).div_(share)


def keep_probability(p: float) -> float:
    """The share of elements kept at dropout `p`, above 0: 1 - p to within 2**-9."""
    return max(1, DROPOUT_RESOLUTION - round(p * DROPOUT_RESOLUTION)) / DROPOUT_RESOLUTION


def _draw_keep_mask(like: Float[Tensor, "*shape"], p: float) -> Bool[Tensor, "*shape"]:
    """Mask of the elements to keep, each with probability `keep_probability(p)`."""
    total = like.numel()
    bits = torch.empty(-(-total // 8), dtype=torch.int64, device=like.device).random_(-(2**63), None)
    draws = bits.view(torch.int8)[:total].view(like.shape)
    return draws >= round((1 - keep_probability(p)) * DROPOUT_RESOLUTION) - DROPOUT_RESOLUTION // 2

"""The spread of a text's scores, set between the split functions and the propagation.

    gain        s_t = g_t z_t, with g set when a tree is calibrated and then fixed
    level norm  s_t = e^(lambda_k) g_t z_t / rms(z over group k), for t in group k; lambda learned            (ours)

z are scores of readouts of length about one. Scores of a split at the root start five times closer together than those
of level 9; since the gain is apart from the readouts, the root learns as fast. With level norm the scores of a level
have one length for all texts. Near the balanced tree a similarity falls with the squared distance of the scores: a
cosine where lengths are equal, an inner product with a bias for short texts where they are not. The propagation decides
which scores form a group.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

MEAN_SQUARE_EPSILON = 1e-12  # added to a mean square, so that a text whose scores are all zero has a gradient


class Spread(nn.Module):
    """Scores times a gain, and of the same length for every text where groups are given.

    Args:
        scores: number of scores.
        gain: factor of every score until `set_gain` is called.
        groups: scores scaled together: adjacent slices from the first score on; empty: no level norm.

    Attributes:
        gain: (scores,), not trained.
    """

    gain: Tensor

    def __init__(self, scores: int, gain: float, groups: Sequence[slice] = ()):
        super().__init__()
        self.register_buffer("gain", torch.full((scores,), gain))
        self.groups = tuple(groups)
        self.log_gain = nn.Parameter(torch.zeros(len(self.groups))) if self.groups else None

    def forward(self, scores: Float[Tensor, "batch scores"]) -> Float[Tensor, "batch scores"]:
        """The spread scores of all groups, or of the first ones; `scores` must hold whole groups."""
        count = scores.shape[1]
        if self.log_gain is None:
            return scores * self.gain[:count]
        groups = [group for group in self.groups if group.start < count]
        parts = scores.split([group.stop - group.start for group in groups], 1)  # slices would be slow on the way back
        factors = self.log_gain.exp()[: len(groups)]
        spread = [part * (_inverse_rms(part) * factor) for part, factor in zip(parts, factors, strict=True)]
        return torch.cat(spread, 1) * self.gain[:count]

    def round_up_to_groups(self, count: int) -> int:
        """The smallest number of scores, at least `count`, that make up whole groups."""
        return next((group.stop for group in self.groups if group.stop >= count), count)

    @torch.no_grad()
    def set_gain(self, gain: Float[Tensor, " scores"], scores: Float[Tensor, "batch scores"]) -> None:
        """Set the gain; with level norm, keep the mean square that it gives the scores of a first batch."""
        self.gain.copy_(gain)
        if self.log_gain is not None:
            self.log_gain.copy_(torch.stack([scores[:, group].square().mean().sqrt().log() for group in self.groups]))


def _inverse_rms(scores: Float[Tensor, "batch group"]) -> Float[Tensor, "batch 1"]:
    return scores.square().mean(1, keepdim=True).add(MEAN_SQUARE_EPSILON).rsqrt()

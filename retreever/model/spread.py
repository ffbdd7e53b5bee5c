"""How far the scores of a text are spread: between the split functions and the propagation.

    gain        s_t = g_t z_t, with g set when a tree is calibrated and then fixed
    level norm  s_t = e^(lambda_k) g_t z_t / rms(z over group k), for t in group k; lambda learned            (ours)

z are scores of read-outs of length about one. With the gain apart from them, a split at the root, whose scores start
five times closer together than those of level 9, learns as fast as these. With level norm the scores of a level have
one length for all texts: near the balanced tree a similarity falls with the squared distance of the scores, which is
a cosine where lengths are equal, and an inner product with a bias for short texts where they are not. Which scores
form a group is the propagation's business.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

EPSILON = 1e-12  # of a mean square, so that a text in the middle of everything has a gradient


class Spread(nn.Module):
    """Scores times a gain, and of the same length for every text where groups are given.

    Args:
        scores: how many there are.
        gain: of all of them, until `start` is called.
        groups: scores that are scaled together: adjacent slices from the first score on; none: no level norm.

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
        """The scores, or the first so many of them that whole groups make up, spread."""
        count = scores.shape[1]
        if self.log_gain is None:
            return scores * self.gain[:count]
        groups = [group for group in self.groups if group.start < count]
        parts = scores.split([group.stop - group.start for group in groups], 1)  # slices would be slow on the way back
        factors = self.log_gain.exp()[: len(groups)]
        spread = [part * (_inverse_rms(part) * factor) for part, factor in zip(parts, factors, strict=True)]
        return torch.cat(spread, 1) * self.gain[:count]

    def whole(self, count: int) -> int:
        """`count`, or as many more as make up whole groups."""
        return next((group.stop for group in self.groups if group.stop >= count), count)

    @torch.no_grad()
    def start(self, gain: Float[Tensor, " scores"], scores: Float[Tensor, "batch scores"]) -> None:
        """Take over a gain; with level norm, keep the mean square that it gives the scores of a first batch."""
        self.gain.copy_(gain)
        if self.log_gain is not None:
            self.log_gain.copy_(torch.stack([scores[:, group].square().mean().sqrt().log() for group in self.groups]))


def _inverse_rms(scores: Float[Tensor, "batch group"]) -> Float[Tensor, "batch 1"]:
    return scores.square().mean(1, keepdim=True).add(EPSILON).rsqrt()

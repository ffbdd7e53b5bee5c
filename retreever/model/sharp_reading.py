"""The sharp reading of a tree (ours): the same scores times one factor, so that a text takes a way one can follow.

    z_left(t) = sigmoid(beta * s_t),    s_t = log p(left child of t) - log p(right child of t)

Ranking uses the soft reading, beta = 1: a similarity of soft distributions sees small differences of every split. A
person wants to see where a text goes, and beta is chosen so that a text has few effective nodes. The branches are read
off node probabilities, so that any propagation, and any stored passage, can be read sharply. Which factor a bundle
uses, and what its nodes mean, is not known here.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from retreever.model.arguments import require_positive

BETA_RANGE = (1.0, 1e4)  # factors that `find_sharpness` chooses from
BISECTIONS = 30  # halvings of a range, on a logarithmic scale


def sharpen(
    probabilities: Float[Tensor, "texts leaves"], beta: float, least: float = 1e-30
) -> Float[Tensor, "texts nodes"]:
    """Probabilities of all nodes down to a level, in heap order, by the sharp reading.

    A parent is the sum of its children, whatever the propagation.

    Args:
        probabilities: of the nodes of the level, as ranking uses them. Sums above it make the branches.
        beta: factor of the scores; 1 gives the probabilities back.
        least: smaller sums count as this much, so that a branch that nobody takes is even.

    Raises:
        ValueError: beta is not above zero, or the nodes are not those of a level.

    >>> sharpen(torch.tensor([[0.4, 0.1, 0.3, 0.2]]), 3.0).round(decimals=2)
    tensor([[1.0000, 0.5000, 0.5000, 0.4900, 0.0100, 0.3900, 0.1100]])
    """
    return torch.cat(multiply_branches(_read_scores(probabilities, least), require_positive("beta", beta)), 1)


def count_effective_nodes(probabilities: Float[Tensor, "texts nodes"]) -> Float[Tensor, " texts"]:
    """2**entropy of each text over the nodes of a level: as many nodes as if it were spread evenly over them.

    >>> count_effective_nodes(torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0]]))
    tensor([4., 2.])
    """
    return torch.special.entr(probabilities).sum(1).exp()


def find_sharpness(probabilities: Float[Tensor, "texts leaves"], effective: float) -> float:
    """The factor at which the average text has `effective` effective nodes at the level, found by bisection.

    Args:
        effective: at least 1; what the level does not have is no more than all of its nodes.

    Returns:
        A factor in BETA_RANGE: its lower end where the soft reading is sharp enough, its upper end where no factor
        is.

    Raises:
        ValueError: `effective` is below 1, or the nodes are not those of a level.
    """
    if effective < 1:
        raise ValueError(f"effective: must be at least 1, got {effective}")
    return find_factor(_read_scores(probabilities, least=1e-30), effective, BETA_RANGE)


def find_factor(scores: Sequence[Float[Tensor, "texts _"]], effective: float, within: tuple[float, float]) -> float:
    """As `find_sharpness`, from the scores of each level of splits and for any range of factors."""
    if _measure_mean_effective(scores, within[0]) <= effective:
        return within[0]
    if _measure_mean_effective(scores, within[1]) > effective:
        return within[1]
    low, high = map(math.log, within)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if _measure_mean_effective(scores, math.exp(middle)) > effective:
            low = middle
        else:
            high = middle
    return math.exp(high)


def _read_scores(probabilities: Float[Tensor, "texts leaves"], least: float) -> list[Tensor]:
    """Scores of the splits, (texts, 2**d) for each level d from the root to the last splits."""
    width = probabilities.shape[1]
    if width < 2 or width & (width - 1):
        raise ValueError(f"probabilities: must be those of the 2**d nodes of a level below the root, got {width}")
    finer = probabilities.clamp_min(least)
    scores: list[Tensor] = []
    while finer.shape[1] > 1:
        left, right = finer[:, 0::2], finer[:, 1::2]
        scores.insert(0, left.log() - right.log())
        finer = left + right
    return scores


def multiply_branches(scores: Sequence[Float[Tensor, "texts _"]], beta: float) -> list[Float[Tensor, "texts _"]]:
    """Probabilities of all levels, the root's first, from the scores of each level of splits times `beta`."""
    nodes = [torch.ones_like(scores[0])]
    for level in scores:
        left = nodes[-1] * torch.sigmoid(beta * level)
        nodes.append(torch.stack([left, nodes[-1] - left], 2).flatten(1))
    return nodes


def _measure_mean_effective(scores: Sequence[Tensor], beta: float) -> float:
    return float(count_effective_nodes(multiply_branches(scores, beta)[-1]).mean())

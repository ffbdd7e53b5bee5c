"""Turns of the rows within a group, after which a text and its answer go the same way (ours).

    maximise over orthogonal T_k   sum over levels d of I(node of the query; node of its passage)
    with the scores T_k z of group k, read sharply

Near even splits a similarity depends on the distance between the scores of a group, and no turn changes a distance. So
training leaves open which of all turned trees it finds, and a person wants the one whose nodes hold what belongs
together. The information between the nodes of a pair is largest where pairs meet and nodes are alike in size. It is
what invariant information clustering maximises (Ji et al. 2019, arXiv 1807.06653), here over turns alone.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from retreever.model.sharp_reading import find_factor, multiply_branches

TURNED_LEVELS = 6  # levels of splits that are turned: deeper nodes hold too few texts to be topics
TURN_STEPS, TURN_BATCH, TURN_RATE = 200, 2_048, 0.05  # of Adam, its rate falling to zero
SHARPNESS_RANGE = (0.1, 100.0)  # of the factor at which a text fills 2**(depth / 2) nodes of the last level
SMALLEST_JOINT_PROBABILITY = 1e-9  # of two nodes, so that its logarithm is finite


def find_turns(
    queries: Float[Tensor, "pairs scores"],
    passages: Float[Tensor, "pairs scores"],
    groups: Sequence[slice],
    generator: torch.Generator,
) -> list[Float[Tensor, "group group"]]:
    """An orthogonal matrix for each group of scores.

    Args:
        queries, passages: scores of the splits of the first levels, in heap order, one row a pair.
        groups: adjacent slices that make up all scores.
        generator: draws the pairs of each step.
    """
    sides = [_scale_groups(scores.float(), groups) for scores in (queries, passages)]
    depth = (queries.shape[1] + 1).bit_length() - 1
    levels = sorted({*range(2, depth, 2), depth})
    beta = find_factor(_split_by_level(sides[1][:TURN_BATCH]), 2 ** (depth / 2), SHARPNESS_RANGE)
    sizes = [group.stop - group.start for group in groups]
    angles = [torch.zeros(size, size, dtype=torch.float32, requires_grad=True) for size in sizes]
    optimizer = torch.optim.Adam(angles, lr=TURN_RATE)
    for step in range(TURN_STEPS):
        rows = torch.randint(len(queries), (min(TURN_BATCH, len(queries)),), generator=generator)
        turns = [_rotate(angle) for angle in angles]
        turned = [_split_by_level(turn_scores(scores[rows], groups, turns)) for scores in sides]
        nodes = [multiply_branches(levels_of_side, beta) for levels_of_side in turned]
        loss = -torch.stack([_measure_information(*(side[level] for side in nodes)) for level in levels]).sum()
        optimizer.param_groups[0]["lr"] = TURN_RATE * (1 - step / TURN_STEPS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [_rotate(angle).detach() for angle in angles]


def turn_scores(
    scores: Float[Tensor, "texts scores"], groups: Sequence[slice], turns: Sequence[Tensor]
) -> Float[Tensor, "texts scores"]:
    """The scores after each group has been turned."""
    return torch.cat([scores[:, group] @ turn.T for group, turn in zip(groups, turns, strict=True)], 1)


def _scale_groups(scores: Tensor, groups: Sequence[slice]) -> Tensor:
    """Every group of a text at a mean square of one, as level norm makes it."""
    return torch.cat([F.normalize(scores[:, group], dim=1) * (group.stop - group.start) ** 0.5 for group in groups], 1)


def _rotate(angle: Tensor) -> Tensor:
    return torch.linalg.matrix_exp(angle - angle.T)


def _split_by_level(scores: Tensor) -> tuple[Tensor, ...]:
    return scores.split([2**d for d in range(scores.shape[1].bit_length())], 1)


def _measure_information(queries: Tensor, passages: Tensor) -> Tensor:
    """Information between the nodes of the two sides of a pair, in nats; the sides count alike."""
    joint = queries.T @ passages / len(queries)
    joint = ((joint + joint.T) / 2).clamp_min(SMALLEST_JOINT_PROBABILITY)
    own = joint.sum(1)
    return (joint * (joint.log() - own.log()[:, None] - own.log())).sum()

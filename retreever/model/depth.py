"""Depth schedulers: which level, or levels, of the tree a training step optimises (section 3.4 of the paper).

    constant           always the last level D
    random_uniform     P(d) = 1 / D
    random_linear      P(d) ~ d
    random_square      P(d) ~ d^2, the paper's stochastic depth
    warmup_linear      1 + floor(r (D - 1)), r from 0 to 1 over the first `warmup_fraction` of steps, then D
    warmup_exponential floor(D^r), likewise
    linear_weighted    deterministic: in every D (D + 1) / 2 steps level d has d of them, spread out
    all_levels (ours)  several levels in every step; the loss is their mean, level d weighing 1 / d**decay, and each but
                       the last takes part of its target from the next (`distill`)

A schedule is a pure function of (seed, step), so workers agree and a resumed run repeats itself.
"""

from collections.abc import Sequence
from itertools import accumulate
from math import floor, gcd
from random import Random

from retreever.model.arguments import require_at_least, require_fraction, require_one_of, require_within
from retreever.model.tree import default_levels

SCHEDULER_POWERS = {"random_uniform": 0, "random_linear": 1, "random_square": 2}
SCHEDULERS = ("constant", *SCHEDULER_POWERS, "warmup_linear", "warmup_exponential", "linear_weighted", "all_levels")
GOLDEN_RATIO = (5**0.5 - 1) / 2  # steps of this fraction of a circle leave no large gap, however many are taken


def levels_at_step(
    scheduler: str,
    depth: int,
    step: int,
    steps: int,
    seed: int,
    levels: Sequence[int] | None,
    warmup_fraction: float,
) -> tuple[int, ...]:
    """The levels that step `step` of `steps` optimises: one, or several with `all_levels`.

    Args:
        scheduler: one of those above.
        depth: the tree's last level, D.
        step: counted from 0.
        levels: those that `all_levels` optimises; None: `default_levels`.
        warmup_fraction: of the warm-up schedulers: the share of `steps` before the full depth, in [0, 1).

    Raises:
        ValueError: an argument out of range.

    >>> levels_at_step("constant", 10, step=3, steps=100, seed=0, levels=None, warmup_fraction=0.1)
    (10,)
    >>> levels_at_step("all_levels", 10, step=3, steps=100, seed=0, levels=None, warmup_fraction=0.1)
    (4, 6, 8, 10)
    """
    require_one_of("scheduler", scheduler, SCHEDULERS)
    require_at_least("depth", depth, 1)
    require_at_least("steps", steps, 1)
    require_at_least("step", step, 0)
    if scheduler == "all_levels":
        return _check_levels(levels, depth)
    if scheduler in SCHEDULER_POWERS:
        return (_draw_level(level_probabilities(scheduler, depth), seed, step),)
    if scheduler == "linear_weighted":
        return (_interleave_level(depth, step),)
    if scheduler == "constant":
        return (depth,)
    return (_warm_up_level(scheduler, depth, step, steps * require_fraction("warmup_fraction", warmup_fraction)),)


def level_weights(levels: Sequence[int], decay: float) -> tuple[float, ...]:
    """Weights of the losses of `levels` in their mean: proportional to 1 / level**decay, summing to one.

    >>> [round(weight, 2) for weight in level_weights((4, 6, 8, 10), 1.0)]
    [0.39, 0.26, 0.19, 0.16]
    """
    weights = [level**-decay for level in levels]
    return tuple(weight / sum(weights) for weight in weights)


def level_shares(levels: Sequence[int], distill: float) -> tuple[float, ...]:
    """Share of soft targets, from the next finer level, in the target of each of `levels` (ascending).

    The share is `distill` at the first level, falls as 1 / level, and is zero at the last.

    >>> [round(share, 2) for share in level_shares((4, 6, 8, 10), 0.8)]
    [0.8, 0.53, 0.4, 0.0]
    """
    return (*(distill * levels[0] / level for level in levels[:-1]), 0.0)


def level_probabilities(scheduler: str, depth: int) -> tuple[float, ...]:
    """Probabilities with which a random scheduler draws the levels 1..depth.

    >>> [round(100 * p, 1) for p in level_probabilities("random_square", 10)[::-1]]
    [26.0, 21.0, 16.6, 12.7, 9.4, 6.5, 4.2, 2.3, 1.0, 0.3]
    """
    power = SCHEDULER_POWERS[require_one_of("scheduler", scheduler, SCHEDULER_POWERS)]
    weights = [level**power for level in range(1, depth + 1)]
    return tuple(weight / sum(weights) for weight in weights)


def _check_levels(levels: Sequence[int] | None, depth: int) -> tuple[int, ...]:
    if levels is None:
        return default_levels(depth)
    if not levels:
        raise ValueError("levels: must hold at least one level, got none")
    return tuple(sorted({require_within("levels", level, 1, depth) for level in levels}))


def _draw_level(probabilities: Sequence[float], seed: int, step: int) -> int:
    draw = Random(f"{seed}/{step}").random()  # SHA-512 of the seed: the same on every machine and version
    below = sum(draw >= bound for bound in accumulate(probabilities))
    return min(below + 1, len(probabilities))


def _interleave_level(depth: int, step: int) -> int:
    """Walk a circle of D (D + 1) / 2 places, d of them for level d, in strides that visit each once a round."""
    places = depth * (depth + 1) // 2
    stride = next(s for s in range(round(places * GOLDEN_RATIO), 2 * places + 1) if gcd(s, places) == 1)
    place = step * stride % places
    return next(level for level in range(1, depth + 1) if place < level * (level + 1) // 2)


def _warm_up_level(scheduler: str, depth: int, step: int, warmup: float) -> int:
    if step >= warmup:
        return depth
    grown = 1 + step / warmup * (depth - 1) if scheduler == "warmup_linear" else depth ** (step / warmup)
    return min(depth, floor(grown + 1e-9))  # 1e-9: 10 ** log10(2) is 2 except for rounding

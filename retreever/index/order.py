"""An order of passages in which those that are alike lie together: halved again and again across a main direction."""

import numpy as np
from jaxtyping import Float, Int

from retreever.index.threads import side_by_side

SAMPLE = 2_048  # rows that a main direction is found from
APART = 2  # halvings in one thread, for as many threads to have parts of their own
ROUNDS = 4  # of the power method: any direction along which rows differ much will do


def alike(points: Float[np.ndarray, "rows dims"], group: int, seed: int = 0) -> Int[np.ndarray, " rows"]:
    """An order of rows in which every `group` in turn lie near to one another; halves are ordered side by side.

    >>> alike(np.float32([[0.0], [9.0], [1.0], [8.0]]), 2).tolist() in ([0, 2, 1, 3], [1, 3, 0, 2])
    True
    """
    order = np.arange(len(points))
    parts = [(0, len(points))]
    for _ in range(APART):
        parts = [part for one in parts for part in _halved(points, order, group, seed, *one)]

    def ordered(part: tuple[int, int]) -> None:
        waiting = [part]
        while waiting:
            start, end = waiting.pop()
            if end - start > group:
                waiting += _halved(points, order, group, seed, start, end)
            else:
                order[start:end].sort()

    side_by_side(ordered, parts)
    return order


def _halved(
    points: np.ndarray, order: np.ndarray, group: int, seed: int, start: int, end: int
) -> list[tuple[int, int]]:
    """Put the rows of one half of a part of an order before those of the other; a small part stays whole."""
    if end - start <= group:
        return [(start, end)]
    own = points[order[start:end]]
    middle = -(-(end - start) // (2 * group)) * group
    halves = np.argpartition(own @ _direction(own, np.random.default_rng((seed, start, end))), middle)
    order[start:end] = order[start:end][halves]
    return [(start, start + middle), (start + middle, end)]


def _direction(points: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Nearly the direction in which the points differ most."""
    sample = points if len(points) <= SAMPLE else points[draw.integers(len(points), size=SAMPLE)]
    centred = sample - sample.mean(axis=0)
    direction: np.ndarray = np.asarray(draw.standard_normal(points.shape[1]), np.float32)
    for _ in range(ROUNDS):
        direction = centred.T @ (centred @ direction)
        direction /= max(float(np.linalg.norm(direction)), 1e-30)
    return direction

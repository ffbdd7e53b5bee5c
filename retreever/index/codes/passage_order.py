"""An order of passages in which those that are alike lie together: halved again and again across a main direction."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Num

from retreever.system.threads import side_by_side

SAMPLE = 512  # rows that a main direction is found from
APART = 2  # halvings in one thread, for as many threads to have parts of their own
ROUNDS = 4  # of the power method: any direction along which rows differ much will do


def alike(points: Num[np.ndarray, "rows dims"], group: int) -> Int[np.ndarray, " rows"]:
    """An order of rows in which every `group` in turn lie near to one another; halves are ordered side by side.

    >>> alike(np.float32([[0.0], [9.0], [1.0], [8.0]]), 2).tolist() in ([0, 2, 1, 3], [1, 3, 0, 2])
    True
    """
    order = np.empty(len(points), np.int64)
    parts = [_Part(0, np.arange(len(points)), points)]
    for _ in range(APART):
        parts = [half for part in parts for half in part.halved(group)]

    def ordered(part: _Part) -> None:
        waiting = [part]
        while waiting:
            one = waiting.pop()
            if len(one.rows) > group:
                waiting += one.halved(group)
            else:
                order[one.start : one.start + len(one.rows)] = np.sort(one.rows)

    side_by_side(ordered, parts)
    return order


@dataclass(frozen=True)
class _Part:
    """Rows that are to lie at places from `start` on, and a copy of their points, in the type they came in: to fetch
    them from all over memory takes longer than all the rest."""

    start: int
    rows: np.ndarray
    points: np.ndarray

    def halved(self, group: int) -> "list[_Part]":
        """Rows of one side and of the other; a small part stays whole."""
        count = len(self.rows)
        if count <= group:
            return [self]
        middle = -(-count // (2 * group)) * group
        halves = np.argpartition(self.points.astype(np.float32) @ _direction(self.points), middle)
        return [self._of(self.start, halves[:middle]), self._of(self.start + middle, halves[middle:])]

    def _of(self, start: int, own: np.ndarray) -> "_Part":
        return _Part(start, self.rows[own], self.points.take(own, axis=0))


def _direction(points: np.ndarray) -> np.ndarray:
    """Nearly the direction in which the points differ most, by the power method; zeros where they do not."""
    sample = points[:: -(-len(points) // SAMPLE)].astype(np.float32)
    centred = sample - sample.mean(axis=0)
    covariance = centred.T @ centred
    covariance /= max(float(covariance.trace()), 1e-30)
    direction: np.ndarray = covariance[covariance.diagonal().argmax()]
    for _ in range(ROUNDS):
        direction = covariance @ direction
    return direction

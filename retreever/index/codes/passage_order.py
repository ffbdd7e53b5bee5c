"""An order in which similar passages lie together: halve rows repeatedly across a main direction.

Codes and passages are not known here.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Num

from retreever.system.threads import map_in_threads

DIRECTION_SAMPLE_ROWS = 512  # rows that a main direction is found from
SERIAL_HALVINGS = 2  # halvings before the parts are ordered in parallel
POWER_ITERATIONS = 4  # of the power method; any direction of large variance will do


def order_by_similarity(points: Num[np.ndarray, "rows dims"], group: int) -> Int[np.ndarray, " rows"]:
    """An order of rows in which every `group` consecutive rows are similar; parts are ordered in parallel.

    >>> order_by_similarity(np.float32([[0.0], [9.0], [1.0], [8.0]]), 2).tolist() in ([0, 2, 1, 3], [1, 3, 0, 2])
    True
    """
    order = np.empty(len(points), np.int64)
    parts = [_Part(0, np.arange(len(points)), points)]
    for _ in range(SERIAL_HALVINGS):
        parts = [half for part in parts for half in part.split(group)]

    def order_part(part: _Part) -> None:
        stack = [part]
        while stack:
            one = stack.pop()
            if len(one.rows) > group:
                stack += one.split(group)
            else:
                order[one.start : one.start + len(one.rows)] = np.sort(one.rows)

    map_in_threads(order_part, parts)
    return order


@dataclass(frozen=True)
class _Part:
    """Rows for the places from `start` on, with a copy of their points: collecting scattered points from memory again
    at every halving would take longer than everything else."""

    start: int
    rows: np.ndarray
    points: np.ndarray

    def split(self, group: int) -> "list[_Part]":
        """Split the rows across their main direction; a part of at most `group` rows stays whole."""
        count = len(self.rows)
        if count <= group:
            return [self]
        middle = -(-count // (2 * group)) * group
        halves = np.argpartition(self.points.astype(np.float32) @ _find_direction(self.points), middle)
        return [self._take(self.start, halves[:middle]), self._take(self.start + middle, halves[middle:])]

    def _take(self, start: int, own: np.ndarray) -> "_Part":
        return _Part(start, self.rows[own], self.points.take(own, axis=0))


def _find_direction(points: np.ndarray) -> np.ndarray:
    """Approximate direction of largest variance, by the power method; zeros where all points are equal."""
    sample = points[:: -(-len(points) // DIRECTION_SAMPLE_ROWS)].astype(np.float32)
    centred = sample - sample.mean(axis=0)
    covariance = centred.T @ centred
    covariance /= max(float(covariance.trace()), 1e-30)
    direction: np.ndarray = covariance[covariance.diagonal().argmax()]
    for _ in range(POWER_ITERATIONS):
        direction = covariance @ direction
    return direction

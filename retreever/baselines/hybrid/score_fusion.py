"""Fusion of two systems' scores of the same passages.

    sum    (1 - w) * dense / spread + w * lexical / rarest, with w in [0, 1]
    rrf    1 / (k + rank by words) + 1 / (k + rank by vectors), reciprocal rank fusion (Cormack 2009)

Spread is the standard deviation of similarities between passages, rarest the rarity of a word that no passage has. Both
are constants of the corpus, so a passage's score does not depend on which others are candidates. Every passage is
scored and ranked by both sides.
"""

import numpy as np
from jaxtyping import Float

LARGEST_ROW = (1 << 32) - 1


def add_scores(
    lexical: Float[np.ndarray, "queries passages"], dense: Float[np.ndarray, "queries passages"], weight: float
) -> Float[np.ndarray, "queries passages"]:
    """Compute the convex sum of scores that are already in their units.

    Args:
        weight: of the lexical side, in [0, 1].
    """
    return np.float32(1 - weight) * dense + np.float32(weight) * lexical


def add_reciprocal_ranks(
    lexical: Float[np.ndarray, "queries passages"], dense: Float[np.ndarray, "queries passages"], constant: int
) -> Float[np.ndarray, "queries passages"]:
    """Compute the reciprocal rank fusion of two rankings, float64.

    Args:
        lexical, dense: ranks from 1 on; infinite where a side does not find the passage, and so adds nothing.
        constant: k of the formula, above or equal to 0.

    >>> add_reciprocal_ranks(np.array([[1.0, np.inf]]), np.array([[2.0, 1.0]]), 1).round(3).tolist()
    [[0.833, 0.5]]
    """
    return 1 / (constant + lexical) + 1 / (constant + dense)


def rank_scores(scores: Float[np.ndarray, "queries passages"]) -> Float[np.ndarray, "queries passages"]:
    """Compute the rank of every passage, the best 1; equal scores by row.

    >>> rank_scores(np.float32([[0.5, 2, 0.5, -1]])).tolist()
    [[2.0, 1.0, 3.0, 4.0]]
    """
    bits = (0 - np.asarray(scores, np.float32)).view(np.int32).astype(np.int64)  # 0 - x: there is no -0 to misplace
    ascending = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # integers in the order of the floats
    keys = (ascending << 32) | np.arange(scores.shape[1])  # sorting these is three times faster than a stable argsort
    keys.sort(axis=1)
    ranks = np.empty(scores.shape, np.float64)
    np.put_along_axis(ranks, keys & LARGEST_ROW, np.arange(1.0, scores.shape[1] + 1)[None], axis=1)
    return ranks

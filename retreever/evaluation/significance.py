"""Confidence intervals and paired tests from one value per query, same queries on both sides."""

import numpy as np
from jaxtyping import Float
from scipy.special import stdtr

BOOTSTRAP_DRAWS = 1000
CONFIDENCE_LEVEL = 0.95


def bootstrap_interval(values: Float[np.ndarray, " queries"], seed: int = 0) -> tuple[float, float]:
    """Compute the bootstrap confidence interval (95 %, percentile) of a mean over queries.

    >>> bootstrap_interval(np.full(50, 0.25))
    (0.25, 0.25)
    """
    return _compute_percentiles(_resample_means(values[None], seed)[0])


def bootstrap_ratio_interval(
    ours: Float[np.ndarray, " queries"], theirs: Float[np.ndarray, " queries"], seed: int = 0
) -> tuple[float, float]:
    """Compute the bootstrap confidence interval (95 %) of the ratio of two means; queries are resampled jointly.

    >>> bootstrap_ratio_interval(np.full(50, 0.5), np.full(50, 0.25))
    (2.0, 2.0)
    """
    means = _resample_means(np.stack([ours, theirs]), seed)
    return _compute_percentiles(means[0] / np.maximum(means[1], 1e-12))


def paired_p_value(ours: Float[np.ndarray, " queries"], theirs: Float[np.ndarray, " queries"]) -> float:
    """Two-sided p of a paired Student test that two means are equal; 1 where the values of every query are equal."""
    if np.array_equal(ours, theirs):
        return 1.0
    difference = ours - theirs
    spread = difference.std(ddof=1)
    if spread == 0:
        return 0.0  # the same difference at every query
    t = difference.mean() / (spread / np.sqrt(len(difference)))
    return float(2 * stdtr(len(difference) - 1, -abs(t)))


def _resample_means(values: Float[np.ndarray, "sides queries"], seed: int) -> Float[np.ndarray, "sides draws"]:
    """Means of `BOOTSTRAP_DRAWS` samples of queries, drawn with replacement."""
    draw = np.random.default_rng(seed)
    queries = values.shape[1]
    counts = draw.multinomial(queries, np.full(queries, 1 / queries), size=BOOTSTRAP_DRAWS)
    return np.asarray(values @ counts.T / queries)


def _compute_percentiles(means: Float[np.ndarray, " draws"]) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2])
    return float(low), float(high)

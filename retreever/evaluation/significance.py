"""How sure is a figure, and how sure is a difference? From one value a query, with equal queries on both sides."""

import numpy as np
from jaxtyping import Float

from retreever.evaluation.metrics import ranx_module

DRAWS = 1000
LEVEL = 0.95


def interval(values: Float[np.ndarray, " queries"], seed: int = 0) -> tuple[float, float]:
    """Bootstrap confidence interval (95 %, percentile) of a mean over queries.

    >>> interval(np.full(50, 0.25))
    (0.25, 0.25)
    """
    return _percentiles(_resampled(values[None], seed)[0])


def ratio_interval(
    ours: Float[np.ndarray, " queries"], theirs: Float[np.ndarray, " queries"], seed: int = 0
) -> tuple[float, float]:
    """Bootstrap confidence interval (95 %) of a ratio of two means over the same queries, drawn together.

    >>> ratio_interval(np.full(50, 0.5), np.full(50, 0.25))
    (2.0, 2.0)
    """
    means = _resampled(np.stack([ours, theirs]), seed)
    return _percentiles(means[0] / np.maximum(means[1], 1e-12))


def paired_p(ours: Float[np.ndarray, " queries"], theirs: Float[np.ndarray, " queries"]) -> float:
    """Two-sided p of ranx's paired Student test that two means over the same queries are equal; 1 where all are."""
    if np.array_equal(ours, theirs):
        return 1.0
    ranx_module()  # imported with its side effects kept away
    from ranx.statistical_tests.paired_student_t_test import paired_student_t_test

    p, _ = paired_student_t_test(ours, theirs)
    return float(p)


def _resampled(values: Float[np.ndarray, "sides queries"], seed: int) -> Float[np.ndarray, "sides draws"]:
    """Means of `DRAWS` samples of queries with replacement."""
    draw = np.random.default_rng(seed)
    queries = values.shape[1]
    counts = draw.multinomial(queries, np.full(queries, 1 / queries), size=DRAWS)
    return np.asarray(values @ counts.T / queries)


def _percentiles(means: Float[np.ndarray, " draws"]) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)

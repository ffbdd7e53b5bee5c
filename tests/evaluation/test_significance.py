import numpy as np
import pytest

from retreever.evaluation.significance import bootstrap_interval, bootstrap_ratio_interval, paired_p_value

DRAW = np.random.default_rng(0)


def test_an_interval_is_as_wide_as_the_normal_one():
    values = DRAW.normal(0.5, 0.2, 400)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)


def test_the_interval_of_a_ratio_knows_that_queries_are_shared():
    theirs = DRAW.uniform(0.1, 1, 300)
    low, high = bootstrap_ratio_interval(1.1 * theirs, theirs)
    assert low == pytest.approx(1.1) and high == pytest.approx(1.1)
    low, high = bootstrap_ratio_interval(DRAW.permutation(theirs), theirs)
    assert low < 1 < high


def test_p_is_small_for_a_steady_difference_and_large_for_none():
    theirs = DRAW.uniform(0, 1, 200)
    assert paired_p_value(theirs + 0.05 + DRAW.normal(0, 0.05, 200), theirs) < 1e-6
    assert paired_p_value(theirs + DRAW.normal(0, 0.3, 200), theirs) > 0.01
    assert paired_p_value(theirs, theirs) == 1 and paired_p_value(theirs + 0.5, theirs) < 1e-6


def test_p_is_that_of_scipy():
    from scipy.stats import ttest_rel

    ours, theirs = DRAW.uniform(0, 1, (2, 50))
    assert paired_p_value(ours, theirs) == pytest.approx(ttest_rel(ours, theirs).pvalue)

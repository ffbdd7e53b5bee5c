from collections import Counter

import pytest

from retreever.config import DepthConfig
from retreever.model import level_probabilities, level_weights
from retreever.model.depth import SCHEDULERS
from tests.support.trees import choose_levels

STEPS = 10_000


def run(scheduler, depth=10, steps=STEPS, seed=0, **settings):
    return [choose_levels(scheduler, depth, step, steps, seed, **settings) for step in range(steps)]


def shares(scheduler, depth=10):
    counts = Counter(level for (level,) in run(scheduler, depth))
    return [counts[level] / STEPS for level in range(1, depth + 1)]


def test_schedulers_are_those_of_the_configuration():
    assert set(SCHEDULERS) == set(DepthConfig.model_fields["scheduler"].annotation.__args__)


def test_stochastic_depth_of_the_paper():
    probabilities = level_probabilities("random_square", 10)
    assert [round(100 * p, 1) for p in probabilities] == [0.3, 1.0, 2.3, 4.2, 6.5, 9.4, 12.7, 16.6, 21.0, 26.0]
    assert sum(level * p for level, p in enumerate(probabilities, 1)) == pytest.approx(7.86, abs=0.005)


@pytest.mark.parametrize("scheduler", ["random_uniform", "random_linear", "random_square"])
def test_draws_follow_their_probabilities(scheduler):
    assert shares(scheduler) == pytest.approx(level_probabilities(scheduler, 10), abs=0.015)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("depth", [1, 2, 3, 10, 16])
def test_pure_and_within_the_tree(scheduler, depth):
    first, again = (run(scheduler, depth, 200) for _ in range(2))
    assert first == again
    assert all(1 <= level <= depth for levels in first for level in levels)


def test_seeds_differ():
    assert run("random_uniform", steps=50, seed=0) != run("random_uniform", steps=50, seed=1)


def test_constant():
    assert set(run("constant", 7, 20)) == {(7,)}


def test_linear_weighted_is_exact_and_interleaved():
    levels = [level for (level,) in run("linear_weighted", 10, 550)]
    for start in range(0, 550, 55):
        assert Counter(levels[start : start + 55]) == {level: level for level in range(1, 11)}
    for window in range(0, 540, 10):
        assert 5 <= sum(levels[window : window + 10]) / 10 <= 9  # the mean is 7 everywhere


@pytest.mark.parametrize("scheduler", ["warmup_linear", "warmup_exponential"])
def test_warm_up_visits_every_level_once_and_then_stays(scheduler):
    levels = [level for (level,) in run(scheduler, 10, 1000)]
    assert levels == sorted(levels)
    assert set(levels[:100]) == set(range(1, 10)) and set(levels[100:]) == {10}


def test_warm_up_shapes():
    linear = Counter(level for (level,) in run("warmup_linear", 10, 900))
    assert [linear[level] for level in range(1, 10)] == [10] * 9
    exponential = [level for (level,) in run("warmup_exponential", 10, 10_000)]
    assert [exponential.index(level) for level in (2, 4, 5, 8)] == [302, 603, 699, 904]  # 1000 log10(level), rounded up


def test_warm_up_of_no_length():
    assert set(run("warmup_linear", 5, 20, warmup_fraction=0.0)) == {(5,)}


def test_all_levels():
    assert set(run("all_levels", 10, 5)) == {(4, 6, 8, 10)}
    assert choose_levels("all_levels", 7, 0, 5, 0) == (4, 6, 7)
    assert choose_levels("all_levels", 3, 0, 5, 0) == (1, 2, 3)
    assert choose_levels("all_levels", 10, 0, 5, 0, levels=(10, 2, 2)) == (2, 10)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"scheduler": "random"}, "scheduler"),
        ({"depth": 0}, "depth"),
        ({"step": -1}, "step"),
        ({"steps": 0}, "steps"),
        ({"levels": (11,)}, "levels"),
        ({"levels": ()}, "levels"),
        ({"scheduler": "warmup_linear", "warmup_fraction": 1.0}, "warmup_fraction"),
    ],
)
def test_bad_arguments_are_named(settings, field):
    given = {"scheduler": "all_levels", "depth": 10, "step": 0, "steps": 5, "seed": 0} | settings
    with pytest.raises(ValueError, match=f"^{field}: must .*got"):
        choose_levels(**given)


@pytest.mark.parametrize("decay", [0.0, 1.0, 2.5])
def test_levels_weigh_a_power_of_their_depth(decay):
    weights = level_weights((2, 4, 10), decay)
    assert sum(weights) == pytest.approx(1)
    assert weights[0] / weights[1] == pytest.approx(2**decay)
    assert weights[0] / weights[2] == pytest.approx(5**decay)

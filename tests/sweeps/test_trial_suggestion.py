"""Which trial comes next: lists keep their order, Optuna learns from ended trials, an interrupt loses nothing."""

import pytest

from retreever.config import Config
from retreever.sweeps import search_space as spaces
from retreever.sweeps.domains import Domain
from retreever.sweeps.search_space import SweepTrial
from retreever.sweeps.space_grammar import SearchSpace
from retreever.sweeps.trial_suggestion import TrialEnd, compute_importances, create_search, find_pareto_points


def optuna_space(trials=12, **settings):
    return SearchSpace.model_validate(
        {
            "name": "t",
            "search": "optuna",
            "budget": {"trials": trials},
            "config": {
                "tree": {"depth": {"choice": [3, 4, 5, 6]}, "split": {"choice": ["linear", "mlp"]}},
                "train": {"lr": {"loguniform": [1e-3, 1e-1]}},
            },
            **settings,
        }
    )


def quality(trial):
    """Grows with the depth of the tree; best at a learning rate of 0.01."""
    return trial.config.tree.depth / 10 - abs(trial.config.train.lr - 0.01)


def drain(found, judge, most=1000):
    """Take trials until none remains, telling the search each end at once."""
    ends = []
    while len(ends) < most and (trial := found.next()):
        ends.append(TrialEnd(trial, "finished", judge(trial)))
        found.tell(ends[-1])
    return ends


def one(trial):
    return (quality(trial),)


def two(trial):
    return quality(trial), float(2**trial.config.tree.depth)


def test_a_grid_hands_out_interrupted_trials_first_and_ended_trials_never():
    space = SearchSpace.model_validate({"name": "t", "config": {"tree": {"depth": {"grid": [3, 4, 5, 6]}}}})
    trials = spaces.list_trials(space)
    found = create_search(space, [TrialEnd(trials[1], "finished", (0.1,))], [trials[2]])
    assert [found.next() for _ in range(4)] == [trials[2], trials[0], trials[3], None]


def test_optuna_ends_with_its_budget_and_never_tries_a_point_twice():
    ends = drain(create_search(optuna_space(25), [], []), one)
    assert len(ends) == len({end.trial.key for end in ends}) == 25


def test_optuna_suggests_better_points_later():
    ends = drain(create_search(optuna_space(60), [], []), one)
    late = [quality(end.trial) for end in ends[40:]]
    early = [quality(end.trial) for end in ends[:10]]  # TPE draws ten at random before it models
    assert sum(late) / len(late) > sum(early) / len(early) + 0.03


def test_the_first_points_are_the_same_for_the_same_seed_and_others_for_another():
    firsts = [[create_search(optuna_space(seed=seed), [], []).next().key for _ in range(1)] for seed in (0, 0, 1)]
    assert firsts[0] == firsts[1] != firsts[2]


def test_a_new_search_continues_with_the_remaining_trials():
    space = optuna_space(12)
    first = create_search(space, [], [])
    past = drain(first, one, most=5)
    begun = first.next()
    again = create_search(space, past, [begun])
    assert again.next() == begun
    rest = drain(again, one)
    keys = {end.trial.key for end in [*past, *rest]} | {begun.key}
    assert len(rest) == 6 and len(keys) == 12
    assert len(again.study.trials) >= 11  # it knows the five earlier ones


def test_every_point_runs_with_every_seed_and_is_judged_by_their_mean():
    found = create_search(optuna_space(3, seeds=2), [], [])
    ends = drain(found, lambda trial: (quality(trial) + trial.config.train.seed,))
    assert [end.trial.config.train.seed for end in ends] == [0, 1] * 3
    assert len(found.study.trials) == 3
    assert found.study.trials[0].value == pytest.approx(quality(ends[0].trial) + 0.5)


def test_stopped_points_count_as_pruned_and_failed_ones_as_failed():
    found = create_search(optuna_space(3), [], [])
    for status, values in (("stopped", (0.1,)), ("failed", None), ("finished", (0.3,))):
        found.tell(TrialEnd(found.next(), status, values))
    assert [trial.state.name for trial in found.study.trials] == ["PRUNED", "FAIL", "COMPLETE"]


def test_several_objectives_span_a_front():
    space = optuna_space(30, objectives=["ndcg_at_10", "bytes_per_document"])
    ends = drain(create_search(space, [], []), two)
    front = find_pareto_points([end.values for end in ends], space.objectives)
    assert len(front) >= 3
    best = {}
    for end in ends:
        best[end.values[1]] = max(best.get(end.values[1], 0.0), end.values[0])
    assert all(ends[i].values[0] == best[ends[i].values[1]] for i in front)


def test_a_front_knows_which_way_every_objective_is_better():
    points = [(0.5, 0.9), (0.6, 0.8), (0.4, 0.85)]
    assert find_pareto_points(points, ["ndcg_at_10", "guard_of_frozen"]) == [0, 1]
    assert find_pareto_points(points, ["ndcg_at_10", "routing_agreement/level_06"]) == [0, 1]
    assert find_pareto_points(points, ["ndcg_at_10", "effective_nodes/level_06"]) == [1]


def test_a_point_that_no_configuration_allows_is_replaced():
    space = SearchSpace.model_validate(
        {
            "name": "t",
            "search": "optuna",
            "budget": {"trials": 8},
            "config": {"loss": {"negatives": {"int": [1, 60]}}, "train": {"batch_size": {"int": [2, 61]}}},
        }
    )
    ends = drain(create_search(space, [], []), lambda trial: (0.5,))
    assert len(ends) == 8
    assert all(end.trial.config.loss.negatives < end.trial.config.train.batch_size for end in ends)


def test_importances_find_what_matters():
    lr, depth = Domain("train.lr", "grid", (0.01, 0.02)), Domain("tree.depth", "grid", (3, 4, 5))
    ends = []
    for d in depth.values:
        for rate in lr.values:
            varied = {"tree.depth": d, "train.lr": rate}
            ends.append(TrialEnd(SweepTrial(varied, Config().with_overrides(varied)), "finished", (d / 10,)))
    found = compute_importances([depth, lr], ends)
    assert next(iter(found)) == "tree.depth" and found["tree.depth"] > 0.9
    assert compute_importances([depth, lr], ends[:3]) == {}

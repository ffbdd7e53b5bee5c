"""Which trial comes next: from the list of a grid or a random search, or as Optuna suggests from earlier trials.

A search knows only what the sweep tells it, and the sweep reads that from the trials' folders. So a search that is
created again after an interrupt continues where the old one ended. How trials run is not known here.
"""

import itertools
import json
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from retreever import config as configs
from retreever.errors import ConfigError
from retreever.sweeps import search_space as spaces
from retreever.sweeps.domains import Domain
from retreever.sweeps.search_space import SEED_SETTING, SweepTrial
from retreever.sweeps.space_grammar import SearchSpace, look_up_direction

optuna.logging.set_verbosity(optuna.logging.WARNING)
MAX_REJECTED_SUGGESTIONS = 100
"""Suggestions in a row that may be invalid or repeated before a search gives up."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialEnd:
    """How a trial ended.

    Attributes:
        values: of the objectives, in their order; None for a trial without them.
    """

    trial: SweepTrial
    status: Literal["finished", "stopped", "failed"]
    values: tuple[float, ...] | None


class TrialSearch(Protocol):
    """Hands out trials and learns how they ended."""

    def next(self) -> SweepTrial | None:
        """The next trial to run; None if no trial remains."""

    def tell(self, end: TrialEnd) -> None:
        """Record the end of a trial that was handed out."""


def create_search(space: SearchSpace, past: Sequence[TrialEnd], begun: Sequence[SweepTrial]) -> TrialSearch:
    """The search of a space.

    Args:
        past: trials that ended in an earlier call; they are not handed out again.
        begun: trials that were interrupted; they come first.
    """
    if space.search == "optuna":
        return OptunaSearch(space, past, begun)
    ended, first = {end.trial.key for end in past}, {trial.key for trial in begun}
    remaining = [trial for trial in spaces.list_trials(space) if trial.key not in ended]
    return PlannedSearch(sorted(remaining, key=lambda trial: trial.key not in first))


class PlannedSearch:
    """Trials that are all known in advance."""

    def __init__(self, trials: Iterable[SweepTrial]):
        self._todo = deque(trials)

    def next(self) -> SweepTrial | None:
        return self._todo.popleft() if self._todo else None

    def tell(self, end: TrialEnd) -> None:
        """Do nothing: the list does not depend on how trials end."""


class OptunaSearch:
    """Points that Optuna's TPE suggests, each run with every seed of the space and judged by its mean.

    A point that a scheduler stopped tells less than one trained to the end. With one objective TPE learns that the
    point was pruned, and its value; with several objectives TPE does not learn of it.
    """

    def __init__(self, space: SearchSpace, past: Sequence[TrialEnd], begun: Sequence[SweepTrial]):
        self._space, self._todo = space, deque(begun)
        found = spaces.list_domains(space)
        self._seeds = next((d.values for d in found if d.name == SEED_SETTING and space.seeds is not None), (None,))
        self._domains = [d for d in found if d.name != SEED_SETTING or space.seeds is None]
        self._open_suggestions: dict[str, optuna.Trial] = {}
        self._ends: dict[str, list[TrialEnd]] = {self._point(trial): [] for trial in begun}
        self.study = create_study(space.objectives)
        for end in past:
            self.tell(end)
        self.study.sampler = optuna.samplers.TPESampler(seed=space.seed + len(self.study.trials))

    def next(self) -> SweepTrial | None:
        for _ in range(MAX_REJECTED_SUGGESTIONS):
            if self._todo:
                return self._todo.popleft()
            if len(self._ends) >= (self._space.budget.trials or 0):
                return None
            self._suggest()
        _log.warning("%s: no new valid point in %d suggestions", self._space.name, MAX_REJECTED_SUGGESTIONS)
        return None

    def _suggest(self) -> None:
        """Ask Optuna for a point; queue its trials if it is valid and new."""
        suggestion = self.study.ask()
        known, point = spaces.list_default_settings(self._space), dict[str, Any]()
        for domain in self._domains:
            if domain.is_active(known | point):
                point[domain.name] = _suggest_value(suggestion, domain)
        try:
            new = [self._trial(point, seed) for seed in self._seeds]
        except ConfigError:
            new = []
        if not new or self._point(new[0]) in self._ends:
            self.study.tell(suggestion, state=TrialState.FAIL)
            return
        self._open_suggestions[self._point(new[0])], self._ends[self._point(new[0])] = suggestion, []
        self._todo.extend(new)

    def _trial(self, point: Mapping[str, Any], seed: int | None) -> SweepTrial:
        varied = dict(point) if seed is None else {**point, SEED_SETTING: seed}
        return SweepTrial(varied, configs.build_config(spaces.list_fixed_settings(self._space), varied))

    def _point(self, trial: SweepTrial) -> str:
        """The point of a trial as text, without the seed."""
        names = {domain.name for domain in self._domains}
        return json.dumps({name: value for name, value in trial.varied.items() if name in names})

    def tell(self, end: TrialEnd) -> None:
        ends = self._ends.setdefault(self._point(end.trial), [])
        ends.append(end)
        if len(ends) < len(self._seeds):
            return
        judged = freeze_point(self._domains, ends, len(self._space.objectives))
        suggestion = self._open_suggestions.pop(self._point(end.trial), None)
        if suggestion is None:  # from an earlier call
            self.study.add_trial(judged)
        elif judged.state == TrialState.PRUNED:
            suggestion.report(judged.intermediate_values[1], 1)
            self.study.tell(suggestion, state=judged.state)
        else:
            self.study.tell(suggestion, judged.values, state=judged.state)


def create_study(objectives: Sequence[str]) -> optuna.Study:
    """An empty study in memory with the direction of each objective."""
    return optuna.create_study(directions=[look_up_direction(name) for name in objectives])


def freeze_point(domains: Sequence[Domain], ends: Sequence[TrialEnd], objectives: int) -> FrozenTrial:
    """One point as an Optuna trial: the mean over seeds; pruned if a seed was stopped, failed if a seed failed."""
    varied = ends[0].trial.varied
    present = [domain for domain in domains if domain.name in varied]
    settings: dict[str, Any] = {
        "params": {d.name: _label(varied[d.name]) if d.is_enumerated else varied[d.name] for d in present},
        "distributions": {domain.name: to_distribution(domain) for domain in present},
    }
    values = [end.values for end in ends if end.values is not None and end.status != "failed"]
    if len(values) < len(ends):
        return create_trial(state=TrialState.FAIL, **settings)
    mean = [float(value) for value in np.mean(values, axis=0)]
    if all(end.status == "finished" for end in ends):
        return create_trial(values=mean, **settings)
    if objectives > 1:
        return create_trial(state=TrialState.FAIL, **settings)
    return create_trial(state=TrialState.PRUNED, intermediate_values={1: mean[0]}, **settings)


def to_distribution(domain: Domain) -> BaseDistribution:
    """A domain as an Optuna distribution; listed values as JSON, since Optuna takes no lists as values."""
    if domain.is_enumerated:
        return CategoricalDistribution([_label(value) for value in domain.values])
    low, high = domain.values
    if domain.kind == "int":
        return IntDistribution(low, high)
    return FloatDistribution(low, high, log=domain.kind == "loguniform")


def _suggest_value(suggestion: optuna.Trial, domain: Domain) -> Any:
    if domain.is_enumerated:
        return json.loads(suggestion.suggest_categorical(domain.name, [_label(value) for value in domain.values]))
    low, high = domain.values
    if domain.kind == "int":
        return suggestion.suggest_int(domain.name, low, high)
    return domain.round_to_range(suggestion.suggest_float(domain.name, low, high, log=domain.kind == "loguniform"))


def _label(value: Any) -> str:
    return json.dumps(value)


def compute_importances(domains: Sequence[Domain], ends: Sequence[TrialEnd]) -> dict[str, float]:
    """The share of the first objective's variance that each setting explains (fANOVA), the largest first; sums to one.

    Empty if it cannot be computed: fewer than four trials finished, or all have the same value.
    """
    finished = [
        TrialEnd(end.trial, end.status, end.values[:1]) for end in ends if end.values and end.status == "finished"
    ]
    if len(finished) < 4 or len({end.values for end in finished}) < 2 or not domains:
        return {}
    study = optuna.create_study()
    study.add_trials([freeze_point(domains, [end], 1) for end in finished])
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def find_pareto_points(points: Sequence[Sequence[float]], objectives: Sequence[str]) -> list[int]:
    """Positions of the points that no other point dominates, being as good in every objective and better in one.

    >>> find_pareto_points([(0.5, 64), (0.4, 64), (0.6, 256), (0.5, 256)], ["ndcg_at_10", "bytes_per_document"])
    [0, 2]
    """
    signs = np.array([1 if look_up_direction(name) == "maximize" else -1 for name in objectives])
    worth = np.asarray(points, float).reshape(len(points), len(objectives)) * signs
    dominated = [bool(((worth >= one).all(axis=1) & (worth > one).any(axis=1)).any()) for one in worth]
    return list(itertools.compress(range(len(points)), np.logical_not(dominated)))

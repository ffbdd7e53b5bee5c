"""Which trial comes next: the list of a grid or a random search, or what Optuna makes of the trials before.

A search knows only what the sweep tells it, and the sweep reads that from the trials' own folders: a search that is
made anew after an interrupt stands where the old one stood.
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
from retreever.sweeps.search_space import SEED, Trial
from retreever.sweeps.space_grammar import DIRECTIONS, SearchSpace

optuna.logging.set_verbosity(optuna.logging.WARNING)
TRIES = 100
"""Suggestions in a row that may be invalid, or known already, before a search gives up."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class End:
    """How a trial ended.

    Attributes:
        values: of the objectives, in their order; None for a trial that came to none.
    """

    trial: Trial
    status: Literal["finished", "stopped", "failed"]
    values: tuple[float, ...] | None


class Search(Protocol):
    """Hands out trials and hears how they ended."""

    def next(self) -> Trial | None:
        """The next trial to run; None when there is no more."""

    def tell(self, end: End) -> None:
        """A trial that was handed out has ended."""


def search(space: SearchSpace, past: Sequence[End], begun: Sequence[Trial]) -> Search:
    """The search of a space.

    Args:
        past: trials that have ended in an earlier call; they are not handed out again.
        begun: trials that an interrupt left unfinished; they come first.
    """
    if space.search == "optuna":
        return Suggested(space, past, begun)
    ended, first = {end.trial.key for end in past}, {trial.key for trial in begun}
    left = [trial for trial in spaces.trials(space) if trial.key not in ended]
    return Planned(sorted(left, key=lambda trial: trial.key not in first))


class Planned:
    """Trials that are all known in advance."""

    def __init__(self, trials: Iterable[Trial]):
        self._todo = deque(trials)

    def next(self) -> Trial | None:
        return self._todo.popleft() if self._todo else None

    def tell(self, end: End) -> None:
        """Nothing depends on it."""


class Suggested:
    """Points that Optuna's TPE suggests, each run with every seed of the space and judged by their mean.

    A point that a scheduler stopped says less than one trained to the end: with one objective TPE is told that it was
    pruned and where it stood, with several it is left out.
    """

    def __init__(self, space: SearchSpace, past: Sequence[End], begun: Sequence[Trial]):
        self._space, self._todo = space, deque(begun)
        found = spaces.varied(space)
        self._seeds = next((d.values for d in found if d.name == SEED and space.seeds is not None), (None,))
        self._domains = [d for d in found if d.name != SEED or space.seeds is None]
        self._asked: dict[str, optuna.Trial] = {}
        self._ends: dict[str, list[End]] = {self._point(trial): [] for trial in begun}
        self.study = study(space.objectives)
        for end in past:
            self.tell(end)
        self.study.sampler = optuna.samplers.TPESampler(seed=space.seed + len(self.study.trials))

    def next(self) -> Trial | None:
        for _ in range(TRIES):
            if self._todo:
                return self._todo.popleft()
            if len(self._ends) >= (self._space.budget.trials or 0):
                return None
            self._suggest()
        _log.warning("%s: no new valid point in %d suggestions", self._space.name, TRIES)
        return None

    def _suggest(self) -> None:
        """Ask for a point; queue its trials where it is valid and new."""
        asked = self.study.ask()
        known, point = spaces.settings(self._space), dict[str, Any]()
        for domain in self._domains:
            if domain.active(known | point):
                point[domain.name] = _suggestion(asked, domain)
        try:
            new = [self._trial(point, seed) for seed in self._seeds]
        except ConfigError:
            new = []
        if not new or self._point(new[0]) in self._ends:
            self.study.tell(asked, state=TrialState.FAIL)
            return
        self._asked[self._point(new[0])], self._ends[self._point(new[0])] = asked, []
        self._todo.extend(new)

    def _trial(self, point: Mapping[str, Any], seed: int | None) -> Trial:
        varied = dict(point) if seed is None else {**point, SEED: seed}
        return Trial(varied, configs.build(spaces.fixed(self._space), varied))

    def _point(self, trial: Trial) -> str:
        """A trial's point, whatever its seed."""
        names = {domain.name for domain in self._domains}
        return json.dumps({name: value for name, value in trial.varied.items() if name in names})

    def tell(self, end: End) -> None:
        ends = self._ends.setdefault(self._point(end.trial), [])
        ends.append(end)
        if len(ends) < len(self._seeds):
            return
        judged = frozen(self._domains, ends, len(self._space.objectives))
        asked = self._asked.pop(self._point(end.trial), None)
        if asked is None:  # of an earlier call
            self.study.add_trial(judged)
        elif judged.state == TrialState.PRUNED:
            asked.report(judged.intermediate_values[1], 1)
            self.study.tell(asked, state=judged.state)
        else:
            self.study.tell(asked, judged.values, state=judged.state)


def study(objectives: Sequence[str]) -> optuna.Study:
    """An empty study, in memory, that knows which way each objective is better."""
    return optuna.create_study(directions=[DIRECTIONS[name] for name in objectives])


def frozen(domains: Sequence[Domain], ends: Sequence[End], objectives: int) -> FrozenTrial:
    """One point as Optuna keeps it: the mean over its seeds, pruned where one was stopped, failed where one was."""
    varied = ends[0].trial.varied
    present = [domain for domain in domains if domain.name in varied]
    settings: dict[str, Any] = {
        "params": {d.name: _label(varied[d.name]) if d.listed else varied[d.name] for d in present},
        "distributions": {domain.name: distribution(domain) for domain in present},
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


def distribution(domain: Domain) -> BaseDistribution:
    """A domain in Optuna's words; listed values by their JSON, since Optuna takes no lists."""
    if domain.listed:
        return CategoricalDistribution([_label(value) for value in domain.values])
    low, high = domain.values
    if domain.kind == "int":
        return IntDistribution(low, high)
    return FloatDistribution(low, high, log=domain.kind == "loguniform")


def _suggestion(asked: optuna.Trial, domain: Domain) -> Any:
    if domain.listed:
        return json.loads(asked.suggest_categorical(domain.name, [_label(value) for value in domain.values]))
    low, high = domain.values
    if domain.kind == "int":
        return asked.suggest_int(domain.name, low, high)
    return domain.rounded(asked.suggest_float(domain.name, low, high, log=domain.kind == "loguniform"))


def _label(value: Any) -> str:
    return json.dumps(value)


def importances(domains: Sequence[Domain], ends: Sequence[End]) -> dict[str, float]:
    """How much of the first objective's variance each setting explains (fANOVA), the largest first; they sum to one.

    Empty where it cannot be said: fewer than four finished trials, or all alike.
    """
    finished = [End(end.trial, end.status, end.values[:1]) for end in ends if end.values and end.status == "finished"]
    if len(finished) < 4 or len({end.values for end in finished}) < 2 or not domains:
        return {}
    told = optuna.create_study()
    told.add_trials([frozen(domains, [end], 1) for end in finished])
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(told, evaluator=evaluator))


def pareto(points: Sequence[Sequence[float]], objectives: Sequence[str]) -> list[int]:
    """Positions of the points that no other beats: none is as good in every objective and better in one.

    >>> pareto([(0.5, 64), (0.4, 64), (0.6, 256), (0.5, 256)], ["ndcg_at_10", "bytes_per_document"])
    [0, 2]
    """
    signs = np.array([1 if DIRECTIONS[name] == "maximize" else -1 for name in objectives])
    worth = np.asarray(points, float).reshape(len(points), len(objectives)) * signs
    beaten = [bool(((worth >= one).all(axis=1) & (worth > one).any(axis=1)).any()) for one in worth]
    return list(itertools.compress(range(len(points)), np.logical_not(beaten)))

"""The meaning of a search space: its domains, its trials and its corners. `space_grammar.py` has its syntax.

Every trial, and every end of every range, is validated before the first trial starts. `trial_suggestion.py` chooses the
points that are not known in advance.
"""

import importlib.resources
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from retreever import config as configs
from retreever.config import Config
from retreever.errors import ConfigError
from retreever.sweeps import domains
from retreever.sweeps.domains import Domain
from retreever.sweeps.space_grammar import SearchSpace, seeds_of, split_objective
from retreever.system.files import digest_json
from retreever.training.guard_set import GUARD_METRIC

SEED_SETTING = "train.seed"
MAX_CORNERS = 1024
"""Most corners that are all checked; in a larger space each end is checked with the first values of the rest."""


@dataclass(frozen=True)
class SweepTrial:
    """One point of a space.

    Attributes:
        varied: the settings that vary in this space, by dotted name, except those whose condition does not hold.
        config: the whole configuration.
    """

    varied: dict[str, Any]
    config: Config

    @property
    def key(self) -> str:
        """Digest of the configuration: the trial's permanent name."""
        return self.config.digest

    @property
    def label(self) -> str:
        """The varied values in words.

        >>> SweepTrial({"tree.depth": 8, "loss.negatives": None}, Config()).label
        'depth=8 negatives=all'
        """
        return " ".join(f"{k.rpartition('.')[2]}={'all' if v is None else v}" for k, v in self.varied.items())


def locate_space(name: str) -> Path:
    """The file of a search space, given by its path or by the name of a space that retreever ships.

    Raises:
        ConfigError: there is no such space; the message lists the shipped ones.

    >>> locate_space("demo").name
    'demo.yaml'
    """
    shipped = Path(str(importlib.resources.files("retreever") / "search_spaces"))
    for path in (Path(name), shipped / f"{name}.yaml"):
        if path.is_file():
            return path
    names = ", ".join(sorted(path.stem for path in shipped.glob("*.yaml")))
    raise ConfigError([f"search space {name}: neither a file nor one of the shipped spaces: {names}"])


def load_space(path: Path, overrides: Mapping[str, Any] | None = None) -> SearchSpace:
    """Read a search space and check every trial, and every end of every range.

    Args:
        overrides: settings by dotted name, fixed for all trials.

    Raises:
        ConfigError: names every fault of the file and of its trials.
    """
    try:
        values = configs.parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    try:
        space = SearchSpace.model_validate(values)
    except ValidationError as error:
        raise ConfigError([_format_fault(path, fault) for fault in error.errors()]) from None
    space = space.model_copy(update={"config": _apply_overrides(space.config, overrides or {})})
    check_space(space)
    return space


def _format_fault(path: Path, fault: Any) -> str:
    if fault["type"] == "value_error":
        return f"{path}: {fault['msg'].removeprefix('Value error, ')}"
    return f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg'].lower()}, got {fault['input']!r}"


def check_space(space: SearchSpace) -> None:
    """Build every trial that is known in advance, every corner of the space, and the final training.

    Raises:
        ConfigError: names every fault.
    """
    chosen = list_trials(space) if space.search != "optuna" else list_corner_trials(space)
    corners = list_corner_trials(space)
    faults = list(dict.fromkeys(_find_missing_figures(space, corners)))
    if faults:
        raise ConfigError(faults)
    if space.about is not None and space.about not in {domain.name for domain in list_domains(space)}:
        raise ConfigError([f"{space.name}: about: {space.about} must be a setting that varies"])
    final_config(space, chosen[0].config)


def _find_missing_figures(space: SearchSpace, trials: Iterable[SweepTrial]) -> Iterator[str]:
    """Faults of objectives that a trial would not measure."""
    for name, trial in itertools.product(space.objectives, trials):
        level, depth = split_objective(name)[1], trial.config.tree.depth
        if name == GUARD_METRIC and not trial.config.train.guard:
            yield (
                f"{space.name}: objectives: {name} needs a guard set, a data set that is not trained on: add --set "
                "train.guard=[NAME]"
            )
        if level is not None and not 1 <= level <= depth:
            yield f"{space.name}: objectives: {name} needs a tree of that depth, got tree.depth={depth}"


def list_corner_trials(space: SearchSpace) -> list[SweepTrial]:
    """Trials at the corners of the space, in which every listed value and both ends of every range occur.

    Raises:
        ConfigError: a corner's configuration breaks a rule.
    """
    return _build_trials(space, _corners(list_domains(space)))


def count_trials(space: SearchSpace) -> int:
    """The number of trials in the space; an upper bound if Optuna chooses them."""
    if space.search != "optuna":
        return len(list_trials(space))
    return (space.budget.trials or 0) * (len(seeds_of(space.seeds)) if space.seeds is not None else 1)


def list_domains(space: SearchSpace) -> list[Domain]:
    """The domains of a space in the order of its file, the seeds last.

    Raises:
        ConfigError: a domain is malformed, or the space's search cannot use it.
    """
    found, faults = [], []
    for section, group in space.config.items():
        if not isinstance(group, Mapping):
            faults.append(f"config.{section}: must be a mapping of settings, got {group!r}")
            continue
        for key, value in group.items():
            if isinstance(value, Mapping):
                try:
                    found.append(domains.parse_domain(f"{section}.{key}", value))
                except ValueError as error:
                    faults.append(f"config.{section}.{key}: {error}")
    if space.seeds is not None:
        found.append(Domain(SEED_SETTING, "grid", seeds_of(space.seeds)))
    faults += _misfits(space, found)
    if faults:
        raise ConfigError(faults)
    return found


def _misfits(space: SearchSpace, found: Sequence[Domain]) -> Iterator[str]:
    """Faults of well-formed domains: they clash with each other or with the space's search."""
    names = [domain.name for domain in found]
    if names.count(SEED_SETTING) > 1:
        yield f"seeds: config.{SEED_SETTING} varies already"
    for position, domain in enumerate(found):
        if space.search == "grid" and domain.kind != "grid":
            yield f"config.{domain.name}: {domain.kind}: search: grid takes {{grid: [values]}}; else search: random"
        if space.search == "optuna" and domain.kind == "grid" and domain.name != SEED_SETTING:
            yield f"config.{domain.name}: grid: search: optuna takes {{choice: [values]}}, or a range"
        for other in domain.when:
            if other not in configs.list_setting_names():
                yield f"config.{domain.name}: when: {configs.describe_unknown_setting(other)}"
            elif other in names[position:]:
                yield f"config.{domain.name}: when: {other} varies as well and must stand before {domain.name}"


def list_fixed_settings(space: SearchSpace) -> dict[str, Any]:
    """The settings that do not vary, nested as in a configuration file."""
    return {
        section: {key: value for key, value in group.items() if not isinstance(value, Mapping)}
        for section, group in space.config.items()
    }


def list_trials(space: SearchSpace) -> list[SweepTrial]:
    """Every trial of a grid in the order of the file, or of a random search in the order drawn.

    Random point i is a pure function of (space.seed, i), so a larger budget keeps the points of a smaller one.

    Raises:
        ConfigError: a trial's configuration breaks a rule (every fault names its trial), or Optuna chooses the trials.
    """
    if space.search == "optuna":
        raise ConfigError([f"{space.name}: search: optuna chooses each trial from the earlier ones"])
    found = list_domains(space)
    crossed = [domain for domain in found if domain.kind == "grid"]
    if space.search == "grid":
        return _build_trials(space, _product(crossed))
    points = []
    for i in range(space.budget.trials or 0):
        chance = np.random.default_rng((space.seed, i))
        drawn = {domain.name: domain.draw(chance) for domain in found if domain.kind != "grid"}
        points += [drawn | point for point in _product(crossed)]
    return _build_trials(space, points)


def list_default_settings(space: SearchSpace) -> dict[str, Any]:
    """The value of every setting where it does not vary, by dotted name."""
    return Config().flat() | {
        f"{s}.{k}": v for s, group in list_fixed_settings(space).items() for k, v in group.items()
    }


def _product(found: Sequence[Domain]) -> Iterator[dict[str, Any]]:
    """Every combination of the domains' values, the last varying fastest."""
    for values in itertools.product(*(domain.values for domain in found)):
        yield dict(zip((domain.name for domain in found), values, strict=True))


def _corners(found: Sequence[Domain]) -> Iterator[dict[str, Any]]:
    """Points in which every listed value and both ends of every range occur."""
    if math.prod(len(domain.values) for domain in found) <= MAX_CORNERS:
        yield from _product(found)
        return
    start = {domain.name: domain.values[0] for domain in found}
    yield from (start | {domain.name: value} for domain in found for value in domain.values)


def _build_trials(space: SearchSpace, points: Iterable[dict[str, Any]]) -> list[SweepTrial]:
    """Trials of the points, each configuration once: points that differ only in inactive settings are one trial."""
    trials: dict[str, SweepTrial] = {}
    faults: list[str] = []
    found, known, base = list_domains(space), list_default_settings(space), list_fixed_settings(space)
    for point in points:
        active = _drop_inactive(found, point, known)
        try:
            trial = SweepTrial(active, configs.build_config(base, active))
            trials.setdefault(trial.key, trial)
        except ConfigError as error:
            faults += [f"{space.name}, trial {active}: {fault}" for fault in error.faults]
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))
    return list(trials.values())


def _drop_inactive(found: Sequence[Domain], point: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """A point without the settings whose condition does not hold, in the order of the file."""
    active: dict[str, Any] = {}
    for domain in found:
        if domain.is_active({**known, **active}):
            active[domain.name] = point[domain.name]
    return active


def final_config(space: SearchSpace, best: Config) -> Config:
    """The best trial's configuration with the space's `final` overrides."""
    return best.with_overrides({f"{s}.{k}": v for s, group in space.final.items() for k, v in group.items()})


def space_digest(space: SearchSpace) -> str:
    """Digest of everything that decides the trials; a sweep resumes only if it is equal. The budget does not count."""
    return digest_json(space.model_dump(mode="json", exclude={"final", "budget", "about"}))[:8]


def _apply_overrides(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = {section: dict(group) if isinstance(group, Mapping) else group for section, group in config.items()}
    for name, value in overrides.items():
        section, _, key = name.partition(".")
        if name not in configs.list_setting_names():
            raise ConfigError([configs.describe_unknown_setting(name)])
        merged.setdefault(section, {})[key] = value
    return merged

"""What a search space means: its domains, its trials, its corners. How it is written: `grammar.py`.

Every trial, and every end of every range, is validated before the first trial starts. Who chooses the points that are
not known in advance: `search.py`.
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
from retreever.sweeps.space_grammar import SearchSpace, seeds_of
from retreever.system.files import digest

SEED = "train.seed"
MAX_CORNERS = 1024
"""Corners of a space that are checked together; beyond that each end is checked beside the first values of the rest."""


@dataclass(frozen=True)
class Trial:
    """One point of a space.

    Attributes:
        varied: the settings that vary in this space, by dotted name; without those whose condition does not hold.
        config: the whole configuration.
    """

    varied: dict[str, Any]
    config: Config

    @property
    def key(self) -> str:
        """Digest of the configuration: the trial's name for ever."""
        return self.config.digest

    @property
    def label(self) -> str:
        """The varied values in words.

        >>> Trial({"tree.depth": 8, "loss.negatives": None}, Config()).label
        'depth=8 negatives=all'
        """
        return " ".join(f"{k.rpartition('.')[2]}={'all' if v is None else v}" for k, v in self.varied.items())


def locate_space(name: str) -> Path:
    """The file of a search space: a path, or the name of one that retreever ships.

    Raises:
        ConfigError: there is none; the message lists those that are shipped.

    >>> locate_space("demo").name
    'demo.yaml'
    """
    shipped = Path(str(importlib.resources.files("retreever") / "search_spaces"))
    for path in (Path(name), shipped / f"{name}.yaml"):
        if path.is_file():
            return path
    names = ", ".join(sorted(path.stem for path in shipped.glob("*.yaml")))
    raise ConfigError([f"search space {name}: neither a file nor one of those shipped: {names}"])


def load(path: Path, overrides: Mapping[str, Any] | None = None) -> SearchSpace:
    """Read a search space and check every trial, and every end of every range.

    Args:
        overrides: dotted names of the configuration, fixed for all trials.

    Raises:
        ConfigError: with every fault of the file and of its trials.
    """
    try:
        values = configs.parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    try:
        space = SearchSpace.model_validate(values)
    except ValidationError as error:
        raise ConfigError([_explain(path, fault) for fault in error.errors()]) from None
    space = space.model_copy(update={"config": _overridden(space.config, overrides or {})})
    check(space)
    return space


def _explain(path: Path, fault: Any) -> str:
    if fault["type"] == "value_error":
        return f"{path}: {fault['msg'].removeprefix('Value error, ')}"
    return f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg'].lower()}, got {fault['input']!r}"


def check(space: SearchSpace) -> None:
    """Build every trial that is known in advance, every corner of the space, and the final training.

    Raises:
        ConfigError: with every fault found.
    """
    chosen = trials(space) if space.search != "optuna" else edges(space)
    edges(space)
    if space.about is not None and space.about not in {domain.name for domain in varied(space)}:
        raise ConfigError([f"{space.name}: about: {space.about} must be a setting that varies"])
    final_config(space, chosen[0].config)


def edges(space: SearchSpace) -> list[Trial]:
    """Trials at the corners of the space: every listed value and both ends of every range occur.

    Raises:
        ConfigError: some corner's configuration breaks a rule.
    """
    return _built(space, _corners(varied(space)))


def size(space: SearchSpace) -> int:
    """How many trials the space has; at most so many where Optuna chooses them."""
    if space.search != "optuna":
        return len(trials(space))
    return (space.budget.trials or 0) * (len(seeds_of(space.seeds)) if space.seeds is not None else 1)


def varied(space: SearchSpace) -> list[Domain]:
    """The domains of a space in the order of its file, the seeds last.

    Raises:
        ConfigError: a domain that is none, or one that the space's search cannot use.
    """
    found, faults = [], []
    for section, group in space.config.items():
        if not isinstance(group, Mapping):
            faults.append(f"config.{section}: must be a mapping of settings, got {group!r}")
            continue
        for key, value in group.items():
            if isinstance(value, Mapping):
                try:
                    found.append(domains.parse(f"{section}.{key}", value))
                except ValueError as error:
                    faults.append(f"config.{section}.{key}: {error}")
    if space.seeds is not None:
        found.append(Domain(SEED, "grid", seeds_of(space.seeds)))
    faults += _misfits(space, found)
    if faults:
        raise ConfigError(faults)
    return found


def _misfits(space: SearchSpace, found: Sequence[Domain]) -> Iterator[str]:
    """What is wrong with domains that are each right."""
    names = [domain.name for domain in found]
    if names.count(SEED) > 1:
        yield f"seeds: config.{SEED} varies already"
    for position, domain in enumerate(found):
        if space.search == "grid" and domain.kind != "grid":
            yield f"config.{domain.name}: {domain.kind}: search: grid takes {{grid: [values]}}; else search: random"
        if space.search == "optuna" and domain.kind == "grid" and domain.name != SEED:
            yield f"config.{domain.name}: grid: search: optuna takes {{choice: [values]}}, or a range"
        for other in domain.when:
            if other not in configs.names():
                yield f"config.{domain.name}: when: {configs.unknown_name(other)}"
            elif other in names[position:]:
                yield f"config.{domain.name}: when: {other} varies as well and must stand before {domain.name}"


def fixed(space: SearchSpace) -> dict[str, Any]:
    """The settings that do not vary, nested as in a configuration file."""
    return {
        section: {key: value for key, value in group.items() if not isinstance(value, Mapping)}
        for section, group in space.config.items()
    }


def trials(space: SearchSpace) -> list[Trial]:
    """Every trial of a grid in the order of the file, or of a random search in the order drawn.

    Random point i is a pure function of (space.seed, i): a larger budget keeps the points there were.

    Raises:
        ConfigError: some trial's configuration breaks a rule, each fault naming the trial; or the search is one whose
            trials are not known in advance.
    """
    if space.search == "optuna":
        raise ConfigError([f"{space.name}: search: optuna chooses each trial by the ones before"])
    found = varied(space)
    crossed = [domain for domain in found if domain.kind == "grid"]
    if space.search == "grid":
        return _built(space, _product(crossed))
    points = []
    for i in range(space.budget.trials or 0):
        chance = np.random.default_rng((space.seed, i))
        drawn = {domain.name: domain.draw(chance) for domain in found if domain.kind != "grid"}
        points += [drawn | point for point in _product(crossed)]
    return _built(space, points)


def settings(space: SearchSpace) -> dict[str, Any]:
    """What every setting is where it does not vary, by dotted name."""
    return Config().flat() | {f"{s}.{k}": v for s, group in fixed(space).items() for k, v in group.items()}


def _product(found: Sequence[Domain]) -> Iterator[dict[str, Any]]:
    """Every combination of the domains' values, the last varying fastest."""
    for values in itertools.product(*(domain.values for domain in found)):
        yield dict(zip((domain.name for domain in found), values, strict=True))


def _corners(found: Sequence[Domain]) -> Iterator[dict[str, Any]]:
    """Points at which every value of a list and both ends of every range occur."""
    if math.prod(len(domain.values) for domain in found) <= MAX_CORNERS:
        yield from _product(found)
        return
    start = {domain.name: domain.values[0] for domain in found}
    yield from (start | {domain.name: value} for domain in found for value in domain.values)


def _built(space: SearchSpace, points: Iterable[dict[str, Any]]) -> list[Trial]:
    """Trials of valid points, each configuration once: points that differ where no condition holds are one."""
    trials: dict[str, Trial] = {}
    faults: list[str] = []
    found, known, base = varied(space), settings(space), fixed(space)
    for point in points:
        active = _active(found, point, known)
        try:
            trial = Trial(active, configs.build(base, active))
            trials.setdefault(trial.key, trial)
        except ConfigError as error:
            faults += [f"{space.name}, trial {active}: {fault}" for fault in error.faults]
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))
    return list(trials.values())


def _active(found: Sequence[Domain], point: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """A point without the settings whose condition does not hold in it, in the order of the file."""
    kept: dict[str, Any] = {}
    for domain in found:
        if domain.active({**known, **kept}):
            kept[domain.name] = point[domain.name]
    return kept


def final_config(space: SearchSpace, winner: Config) -> Config:
    """The winner's configuration with the space's `final` laid over it."""
    return winner.with_overrides({f"{s}.{k}": v for s, group in space.final.items() for k, v in group.items()})


def space_digest(space: SearchSpace) -> str:
    """Digest of all that decides the trials; a sweep resumes only where it is the same. A budget may be raised."""
    return digest(space.model_dump(mode="json", exclude={"final", "budget", "about"}))[:8]


def _overridden(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = {section: dict(group) if isinstance(group, Mapping) else group for section, group in config.items()}
    for name, value in overrides.items():
        section, _, key = name.partition(".")
        if name not in configs.names():
            raise ConfigError([configs.unknown_name(name)])
        merged.setdefault(section, {})[key] = value
    return merged

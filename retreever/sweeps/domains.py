"""The domain of a varied setting: a list of values or a range of numbers, and the condition under which it varies.

How a search chooses among the values (product, random draw, Optuna) is not known here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

DomainKind = Literal["grid", "choice", "uniform", "loguniform", "int"]
DOMAIN_KINDS: tuple[DomainKind, ...] = ("grid", "choice", "uniform", "loguniform", "int")
DOMAIN_GRAMMAR = (
    "{grid: [values]}, {choice: [values]}, {uniform: [low, high]}, {loguniform: [low, high]} or {int: [low, high]}"
)


@dataclass(frozen=True)
class Domain:
    """The values of one setting.

    Attributes:
        name: dotted name of the setting.
        values: all of them (grid, choice), or the two ends of a range, both included.
        when: dotted names of other settings and the values they must have; otherwise the setting keeps its default.
    """

    name: str
    kind: DomainKind
    values: tuple[Any, ...]
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def is_enumerated(self) -> bool:
        """Whether `values` lists every value, as opposed to the ends of a range."""
        return self.kind in ("grid", "choice")

    def is_active(self, settings: Mapping[str, Any]) -> bool:
        """Whether the condition holds under `settings`, given by dotted name."""
        return all(settings.get(name) in wanted for name, wanted in self.when.items())

    def draw(self, chance: np.random.Generator) -> Any:
        """Draw one value at random.

        >>> Domain("train.lr", "loguniform", (0.001, 0.1)).draw(np.random.default_rng(0))
        0.01879
        """
        if self.is_enumerated:
            return self.values[int(chance.integers(len(self.values)))]
        low, high = self.values
        if self.kind == "int":
            return int(chance.integers(low, high, endpoint=True))
        if self.kind == "loguniform":
            return self.round_to_range(math.exp(chance.uniform(math.log(low), math.log(high))))
        return self.round_to_range(chance.uniform(low, high))

    def round_to_range(self, value: float) -> float:
        """Round to four significant digits, which a person can type, and clip to the range.

        >>> Domain("train.lr", "uniform", (0.0, 1.0)).round_to_range(0.123456)
        0.1235
        """
        low, high = self.values
        return float(min(high, max(low, float(f"{value:.4g}"))))

    def __str__(self) -> str:
        values = ", ".join("all" if value is None else str(value) for value in self.values)
        condition = " and ".join(f"{name} is {' or '.join(map(str, wanted))}" for name, wanted in self.when.items())
        return f"{self.kind} {values}" + (f", when {condition}" if condition else "")


def parse_domain(name: str, given: Mapping[str, Any]) -> Domain:
    """The domain that a space gives for the setting `name`.

    Raises:
        ValueError: `given` is not a domain; the message has the rule, not the name.
    """
    kinds = [kind for kind in DOMAIN_KINDS if kind in given]
    if len(kinds) != 1 or set(given) - {kinds[0], "when"}:
        raise ValueError(
            f"must be a value or {DOMAIN_GRAMMAR}, with `when: {{name: value}}` if needed, got {dict(given)!r}"
        )
    kind = kinds[0]
    values = given[kind]
    if not isinstance(values, list) or not values:
        raise ValueError(f"{kind}: must be a list of values, got {values!r}")
    if kind not in ("grid", "choice"):
        _check_range(kind, values)
    return Domain(name, kind, tuple(values), _parse_condition(given.get("when", {})))


def _check_range(kind: DomainKind, values: list[Any]) -> None:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if len(values) != 2 or not numbers or not values[0] < values[1]:
        raise ValueError(f"{kind}: must be two numbers [low, high], low below high, got {values!r}")
    if kind == "int" and not all(isinstance(value, int) for value in values):
        raise ValueError(f"int: must be two whole numbers, got {values!r}")
    if kind == "loguniform" and values[0] <= 0:
        raise ValueError(f"loguniform: must start above 0, got {values!r}")


def _parse_condition(given: Any) -> dict[str, tuple[Any, ...]]:
    if not isinstance(given, Mapping):
        raise ValueError(f"when: must be a mapping of settings to a value or a list of values, got {given!r}")
    return {name: tuple(value) if isinstance(value, list) else (value,) for name, value in given.items()}

"""The syntax of a search space: YAML that mirrors the configuration, with a domain where a setting varies.

```yaml
name: demo
search: random           # grid (every combination, the default), random, or optuna
budget: {trials: 24}     # random and optuna: points; `minutes`: no trial starts later than that in one call
objectives: [ndcg_at_10, bytes_per_document]   # the first ranks trials; several: a Pareto front, which optuna extends
scheduler: asha          # or: median, none
seeds: 3                 # every point with train.seed 0, 1, 2
about: tree.split        # the setting that the question is about: the sweep ends with an answer in words
config:                  # as a configuration file; settings not named keep their defaults
  tree:
    depth: {grid: [8, 10]}
    split: {choice: [linear, mlp]}
    hidden: {int: [64, 256], when: {tree.split: mlp}}
  train:
    lr: {loguniform: [1e-3, 5e-2]}
final:                   # overrides for the final training of the best trial
  train: {steps: 900}
```
`domains.py` lists the domains, `search_space.py` gives a space its meaning.
"""

import re
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from retreever.config import ConfigSection, Count

Direction = Literal["maximize", "minimize"]
OBJECTIVE_DIRECTIONS: dict[str, Direction] = {
    "ndcg_at_10": "maximize",
    "recall_at_10": "maximize",
    "recall_at_100": "maximize",
    "mrr_at_10": "maximize",
    "bytes_per_document": "minimize",
    "latency_ms": "minimize",
    "seconds": "minimize",
    "guard_of_frozen": "maximize",
}
"""The figures that a sweep can optimise, and their better direction: dev metrics of the last level, bytes of a document
and milliseconds of a search there, seconds of training, the smallest ratio to the frozen encoder on guard sets."""
LEVEL_OBJECTIVE_DIRECTIONS: dict[str, Direction] = {"routing_agreement": "maximize", "effective_nodes": "minimize"}
"""The same of figures that an objective names with a level, e.g. `routing_agreement/level_06`."""


def look_up_direction(objective: str) -> Direction:
    """The better direction of a figure.

    Raises:
        KeyError: a sweep cannot optimise it.

    >>> look_up_direction("effective_nodes/level_06")
    'minimize'
    """
    name, level = split_objective(objective)
    return (OBJECTIVE_DIRECTIONS if level is None else LEVEL_OBJECTIVE_DIRECTIONS)[name]


def split_objective(objective: str) -> tuple[str, int | None]:
    """A figure's name and its level; None where it names no level.

    >>> split_objective("routing_agreement/level_06"), split_objective("ndcg_at_10")
    (('routing_agreement', 6), ('ndcg_at_10', None))
    """
    found = re.fullmatch(r"(.+)/level_(\d\d)", objective)
    return (found[1], int(found[2])) if found else (objective, None)


class AshaConfig(ConfigSection):
    """Asynchronous successive halving over validations."""

    grace: Count = Field(1, description="validations that every trial gets")
    reduction: int = Field(2, ge=2, description="at each rung one trial in this many continues")


class MedianConfig(ConfigSection):
    """Stop a trial whose best figure so far is below the median of the other trials' running means."""

    grace: Count = Field(1, description="validations that every trial gets")
    trials: Count = Field(3, description="trials needed before one is stopped")


class Budget(ConfigSection):
    """Limits of a sweep."""

    trials: Count | None = Field(None, description="points that random and optuna try")
    minutes: float | None = Field(None, gt=0, description="no trial starts later than this in a call")


class SearchSpace(ConfigSection):
    """The fields of the file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    search: Literal["grid", "random", "optuna"] = "grid"
    seed: int = Field(0, ge=0, description="of random's and optuna's choices")
    objectives: tuple[str, ...] = Field(("ndcg_at_10",), min_length=1)
    scheduler: Literal["asha", "median", "none"] = "asha"
    asha: AshaConfig = AshaConfig()
    median: MedianConfig = MedianConfig()
    budget: Budget = Budget()
    seeds: int | tuple[int, ...] | None = Field(
        None, description="seeds that every point is run with: how many, or which"
    )
    workers: Count = Field(1, description="workers of one trial; above 1 a trial is a Ray Train run of its own")
    about: str | None = Field(None, description="the varied setting that the sweep's answer compares")
    config: dict[str, Any] = Field(default_factory=dict)
    final: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        known = [*OBJECTIVE_DIRECTIONS, *(f"{name}/level_DD" for name in LEVEL_OBJECTIVE_DIRECTIONS)]
        unknown = [name for name in self.objectives if re.sub(r"/level_\d\d$", "/level_DD", name) not in known]
        if unknown:
            raise ValueError(f"objectives: {unknown} must be among {', '.join(known)}")
        if self.search == "grid" and self.budget.trials is not None:
            raise ValueError("budget.trials: a grid has as many as it has; use search: random or optuna")
        if self.search != "grid" and self.budget.trials is None:
            raise ValueError(f"budget.trials: search: {self.search} needs it")
        if self.seeds is not None and not seeds_of(self.seeds):
            raise ValueError(f"seeds: must be one or more, got {self.seeds}")
        return self


def seeds_of(given: int | tuple[int, ...]) -> tuple[int, ...]:
    """The seeds that a space lists, or the first ones from 0.

    >>> seeds_of(3), seeds_of((7, 9))
    ((0, 1, 2), (7, 9))
    """
    return tuple(range(given)) if isinstance(given, int) else given

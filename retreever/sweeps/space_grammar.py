"""How a search space is written: YAML that mirrors the configuration tree, with a domain where a setting varies.

```yaml
name: demo
search: random           # grid (every combination, the default), random, or optuna
budget: {trials: 24}     # random and optuna: points; `minutes`: no trial starts later than that in one call
objectives: [ndcg_at_10, bytes_per_document]   # the first one ranks; two or more make optuna seek a Pareto front
scheduler: asha          # or: median, none
seeds: 3                 # every point with train.seed 0, 1, 2
about: tree.split        # the setting that the question is about: the sweep ends with an answer in words
config:                  # as a configuration file; what is not named keeps its default
  tree:
    depth: {grid: [8, 10]}
    split: {choice: [linear, mlp]}
    hidden: {int: [64, 256], when: {tree.split: mlp}}
  train:
    lr: {loguniform: [1e-3, 5e-2]}
final:                   # laid over the winner when it is trained once more
  train: {steps: 900}
```
What the domains may be: `domains.py`.
"""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from retreever.config import Count, Section

DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {
    "ndcg_at_10": "maximize",
    "recall_at_10": "maximize",
    "recall_at_100": "maximize",
    "mrr_at_10": "maximize",
    "bytes_per_document": "minimize",
    "latency_ms": "minimize",
    "seconds": "minimize",
}
"""What a sweep may seek, and which way is better: dev figures of the last level, size and search time of one document
and one query there, seconds of training."""


class AshaConfig(Section):
    """Asynchronous successive halving over validations."""

    grace: Count = Field(1, description="validations every trial gets")
    reduction: int = Field(2, ge=2, description="one trial in so many goes on at each rung")


class MedianConfig(Section):
    """Stop a trial whose best so far is below the median of the others' running means."""

    grace: Count = Field(1, description="validations every trial gets")
    trials: Count = Field(3, description="trials there must be before one is stopped")


class Budget(Section):
    """Where a sweep ends."""

    trials: Count | None = Field(None, description="points that random and optuna try")
    minutes: float | None = Field(None, gt=0, description="no trial starts later than this in one call")


class SearchSpace(Section):
    """The file as written; `space.py` and `search.py` say what it means."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    search: Literal["grid", "random", "optuna"] = "grid"
    seed: int = Field(0, ge=0, description="of random's and optuna's choices")
    objectives: tuple[str, ...] = Field(("ndcg_at_10",), min_length=1)
    scheduler: Literal["asha", "median", "none"] = "asha"
    asha: AshaConfig = AshaConfig()
    median: MedianConfig = MedianConfig()
    budget: Budget = Budget()
    seeds: int | tuple[int, ...] | None = Field(None, description="how many seeds, or which, every point is run with")
    workers: Count = Field(1, description="workers of one trial; above 1 a trial is a Ray Train run of its own")
    about: str | None = Field(None, description="the varied setting that the sweep's answer compares")
    config: dict[str, Any] = Field(default_factory=dict)
    final: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        unknown = [name for name in self.objectives if name not in DIRECTIONS]
        if unknown:
            raise ValueError(f"objectives: {unknown} must be among {', '.join(DIRECTIONS)}")
        if self.search == "grid" and self.budget.trials is not None:
            raise ValueError("budget.trials: a grid has as many as it has; use search: random or optuna")
        if self.search != "grid" and self.budget.trials is None:
            raise ValueError(f"budget.trials: search: {self.search} needs it")
        if self.seeds is not None and not seeds_of(self.seeds):
            raise ValueError(f"seeds: must be one or more, got {self.seeds}")
        if self.search != "optuna" and len(self.objectives) > 1:
            raise ValueError(f"objectives: search: {self.search} takes one, got {list(self.objectives)}")
        return self


def seeds_of(given: int | tuple[int, ...]) -> tuple[int, ...]:
    """The seeds that a space names, or as many as it says from 0.

    >>> seeds_of(3), seeds_of((7, 9))
    ((0, 1, 2), (7, 9))
    """
    return tuple(range(given)) if isinstance(given, int) else given

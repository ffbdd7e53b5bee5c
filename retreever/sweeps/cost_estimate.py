"""How long will a sweep take? A few real steps and one validation of each kind of trial, and arithmetic.

Trials of one kind differ in what costs no time (learning rate, seed, dropout, ...). Early stopping is not foreseen, so
that a sweep with a scheduler takes less than is said here.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset, open_dataset
from retreever.errors import DataError
from retreever.sweeps.search_space import Trial
from retreever.sweeps.space_grammar import SearchSpace
from retreever.system.progress import Track, silent
from retreever.system.workspace import Workspace
from retreever.training.training_loop import epochs

STEPS = 3
MOST = 6
"""Kinds of trials that are measured; the others are taken as their mean."""
FREE = {
    *("seed", "steps", "lr", "beta1", "beta2", "eps", "weight_decay", "warmup_fraction", "clip_norm"),
    *("input_dropout", "eval_every", "patience"),
}
"""Settings of `train` that change the number of steps and validations, or nothing, but not what one costs."""
STARTING = 15.0
"""Seconds until a first trial trains: Ray, the process and its imports."""
BETWEEN = 2.0
"""Seconds from a trial's end to the next one's first step in the same process, and for its plots."""


@dataclass(frozen=True)
class Estimate:
    """What a sweep needs.

    Attributes:
        trials: how many; at most so many where Optuna chooses them.
        cpus: of one trial.
        training: seconds of training and validating, on one core, over all trials.
        wall: seconds from start to end on `slots` trials at a time.
    """

    trials: int
    cpus: int
    slots: int
    training: float
    wall: float


def estimate(
    space: SearchSpace, trials: Sequence[Trial], total: int, workspace: Workspace, cpus: int, track: Track = silent
) -> Estimate | None:
    """Measure one trial of each kind and add up; None where a data set is not there or not encoded yet.

    Args:
        trials: of the space; a sample of them where they are not known in advance.
        total: trials that the space has.
        cpus: of the cluster.
    """
    kinds: dict[str, Config] = {}
    for trial in trials:
        kinds.setdefault(_kind(trial.config), trial.config)
    chosen = list(kinds)[:: -(-len(kinds) // MOST)]
    try:
        data = {str((c.data, c.encoding)): open_dataset(c, workspace, _refuse) for c in map(kinds.__getitem__, chosen)}
    except (DataError, _NotEncodedError):
        return None
    costs = {}
    for kind in track(chosen, "measuring kinds of trials"):
        config = kinds[kind]
        costs[kind] = _cost(config, data[str((config.data, config.encoding))])
    mean = tuple(sum(cost) / len(costs) for cost in zip(*costs.values(), strict=True))
    seconds = [_seconds(trial.config, *costs.get(_kind(trial.config), mean)) for trial in trials]
    training = sum(seconds) / len(seconds) * total
    slots = max(1, cpus // space.workers)
    busy = max(training / space.workers / slots, max(seconds) / space.workers)
    return Estimate(total, space.workers, slots, training, STARTING + busy + BETWEEN * total / slots)


class _NotEncodedError(Exception):
    """Encoding takes minutes and is not for a dry run."""


def _refuse(items: Iterable[Any], label: str, total: float | None = None) -> Iterator[Any]:
    """A track that ends long work before it begins."""
    raise _NotEncodedError


def _kind(config: Config) -> str:
    """Equal where a step, and a validation, cost the same."""
    return config.model_dump_json(exclude={"index": True, "train": FREE})


def _cost(config: Config, data: EncodedDataset) -> tuple[float, float]:
    """Seconds of a step and of a validation on one core."""
    short = config.with_overrides({"train.steps": STEPS, "train.eval_every": STEPS})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            (report,) = epochs(short, data, Path(folder))
    finally:
        torch.set_num_threads(threads)
    return report.metrics["seconds"] / STEPS, report.metrics["validation_seconds"]


def _seconds(config: Config, step: float, validation: float) -> float:
    train = config.train
    return train.steps * step + -(-train.steps // train.eval_every) * validation


def spoken(seconds: float) -> str:
    """A span of time in words.

    >>> spoken(42), spoken(200), spoken(9000)
    ('42 s', '3 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

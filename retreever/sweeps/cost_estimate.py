"""Estimate how long a sweep takes, from a few real steps and one validation of each kind of trial.

Trials of one kind differ only in settings that cost no time (learning rate, seed, dropout, ...). The estimate ignores
early stopping, so a sweep with a scheduler takes less.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset, open_encoded_dataset
from retreever.errors import DataError
from retreever.sweeps.search_space import SweepTrial
from retreever.sweeps.space_grammar import SearchSpace
from retreever.system.progress import Track, track_silently
from retreever.system.workspace import Workspace
from retreever.training.training_loop import epochs

ESTIMATE_STEPS = 3
MAX_MEASURED_KINDS = 6
"""Most kinds of trials that are measured; the other kinds count as the mean of these."""
COST_FREE_SETTINGS = {
    *("seed", "steps", "lr", "beta1", "beta2", "eps", "weight_decay", "warmup_fraction", "clip_norm"),
    *("input_dropout", "eval_every", "patience"),
}
"""Settings of `train` that do not change the cost of one step or one validation."""
STARTUP_SECONDS = 15.0
"""Seconds until the first trial trains: start of Ray and of a process, and its imports."""
SECONDS_BETWEEN_TRIALS = 2.0
"""Seconds from a trial's end to the first step of the next one in the same process; includes the plots."""


@dataclass(frozen=True)
class Estimate:
    """What a sweep needs.

    Attributes:
        trials: how many; an upper bound if Optuna chooses them.
        cpus: of one trial.
        slots: trials at a time.
        training: seconds of training and validation on one core, over all trials.
        wall: seconds from start to end.
    """

    trials: int
    cpus: int
    slots: int
    training: float
    wall: float


def estimate_sweep(
    space: SearchSpace,
    trials: Sequence[SweepTrial],
    total: int,
    workspace: Workspace,
    cpus: int,
    track: Track = track_silently,
) -> Estimate | None:
    """Measure one trial of each kind and add up; None if a data set is missing or not encoded yet.

    Args:
        trials: of the space; a sample if they are not known in advance.
        total: number of trials in the space.
        cpus: of the cluster.
    """
    kinds: dict[str, Config] = {}
    for trial in trials:
        kinds.setdefault(_cost_kind(trial.config), trial.config)
    chosen = list(kinds)[:: -(-len(kinds) // MAX_MEASURED_KINDS)]
    try:
        opened = {
            str((c.data, c.encoding)): open_encoded_dataset(c, workspace, _refuse_to_encode)
            for kind in chosen
            for c in (kinds[kind], *kinds[kind].guards.values())
        }
    except (DataError, _NotEncodedError):
        return None
    costs = {}
    for kind in track(chosen, "measuring kinds of trials"):
        config = kinds[kind]
        data, *guards = (opened[str((c.data, c.encoding))] for c in (config, *config.guards.values()))
        costs[kind] = _measure_cost(config, data, dict(zip(config.guards, guards, strict=True)))
    mean = tuple(sum(cost) / len(costs) for cost in zip(*costs.values(), strict=True))
    seconds = [_estimate_seconds(trial.config, *costs.get(_cost_kind(trial.config), mean)) for trial in trials]
    training = sum(seconds) / len(seconds) * total
    slots = max(1, cpus // space.workers)
    busy = max(training / space.workers / slots, max(seconds) / space.workers)
    return Estimate(
        total, space.workers, slots, training, STARTUP_SECONDS + busy + SECONDS_BETWEEN_TRIALS * total / slots
    )


class _NotEncodedError(Exception):
    """Raised instead of encoding, which takes too long for a dry run."""


def _refuse_to_encode(items: Iterable[Any], label: str, total: float | None = None) -> Iterator[Any]:
    """A `Track` that stops long work before it starts."""
    raise _NotEncodedError


def _cost_kind(config: Config) -> str:
    """A key that is equal for configurations whose steps and validations cost the same."""
    return config.model_dump_json(exclude={"index": True, "train": COST_FREE_SETTINGS, "tree": {"anchor"}})


def _measure_cost(config: Config, data: EncodedDataset, guards: Mapping[str, EncodedDataset]) -> tuple[float, float]:
    """Seconds of a step and of a validation on one core."""
    short = config.with_overrides({"train.steps": ESTIMATE_STEPS, "train.eval_every": ESTIMATE_STEPS})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            (report,) = epochs(short, data, Path(folder), guards=guards)
    finally:
        torch.set_num_threads(threads)
    return report.metrics["seconds"] / ESTIMATE_STEPS, report.metrics["validation_seconds"]


def _estimate_seconds(config: Config, step: float, validation: float) -> float:
    train = config.train
    return train.steps * step + -(-train.steps // train.eval_every) * validation


def format_duration(seconds: float) -> str:
    """A duration in words.

    >>> format_duration(42), format_duration(200), format_duration(9000)
    ('42 s', '3 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

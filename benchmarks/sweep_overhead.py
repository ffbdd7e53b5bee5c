"""What does a sweep cost beside its training? The same trials by Ray Tune and as a plain loop in one process.

    python -m benchmarks.sweep_overhead [--seconds 60] [--trials 4]      # after `make demo`, on its encodings

Prints wall time x cores of the sweep over the sum of its trials' own time (training and validation, as each trial
counts it itself), the same of the plain loop, and how long a trial takes from its start to its first step.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch

from retreever.encoding.encoding_store import open_dataset
from retreever.sweeps import search_space as spaces
from retreever.sweeps.run_sweep import Event, sweep
from retreever.sweeps.space_grammar import SearchSpace
from retreever.system.workspace import Workspace
from retreever.tracking.tracker import Tracker
from retreever.training.training_loop import fit

BASE = {
    "data": {"name": "docstrings"},
    "encoder": {"passage_max_length": 32, "query_max_length": 32},
    "tree": {"depth": 8},
}
PROBE = 20


def main() -> None:
    """Measure a step, choose the steps that fill the seconds asked for, run both and print the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60, help="length of a trial")
    parser.add_argument("--trials", type=int, default=4)
    asked = parser.parse_args()
    here, torch_threads = Workspace.default(), torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        place = Workspace.at(Path(folder))
        for name in ("data", "encodings"):
            (place.root / name).symlink_to(here.root / name)
        torch.set_num_threads(1)
        space = _space(place, asked.seconds, asked.trials)
        loop, own_loop = _loop(space, place)
        torch.set_num_threads(torch_threads)
        wall, own, starts = _sweep(space, place)
    cores = os.cpu_count() or 1
    print(f"{asked.trials} trials of about {own / asked.trials:.0f} s, {cores} cores")
    print(f"plain loop, one process: {loop:.1f} s wall, {own_loop:.1f} s of trials, ratio {loop / own_loop:.3f}")
    print(f"sweep: {wall:.1f} s wall x {cores} cores, {own:.1f} s of trials, ratio {wall * cores / own:.3f}")
    print(f"sweep against loop, wall time: {wall / loop:.3f}")
    print("start of a trial to its first step, in order: " + ", ".join(f"{start:.1f} s" for start in starts))


def _space(place: Workspace, seconds: float, trials: int) -> SearchSpace:
    """A grid over seeds whose trials take about so long."""
    probe = _grid({"steps": PROBE, "eval_every": PROBE, "batch_size": 512}, 1)
    (trial,) = spaces.trials(probe)
    with tempfile.TemporaryDirectory() as folder:
        found = fit(trial.config, open_dataset(trial.config, place), Path(folder)).best
    steps = max(PROBE, round(seconds / (found["seconds"] / PROBE)))
    return _grid({"steps": steps, "eval_every": -(-steps // 3), "batch_size": 512}, trials)


def _grid(train: dict[str, int], trials: int) -> SearchSpace:
    return SearchSpace(name="overhead", scheduler="none", seeds=trials, config=BASE | {"train": train})


def _loop(space: SearchSpace, place: Workspace) -> tuple[float, float]:
    """Wall seconds of the trials one after the other, and the sum of their own."""
    begun, own = time.monotonic(), 0.0
    for trial in spaces.trials(space):
        config = trial.config
        own += _own(fit(config, open_dataset(config, place), place.root / "loop" / trial.key).history)
    return time.monotonic() - begun, own


def _own(history: list[dict[str, float]]) -> float:
    """Seconds of training and of all validations."""
    return history[-1]["seconds"] + sum(figures["validation_seconds"] for figures in history)


def _sweep(space: SearchSpace, place: Workspace) -> tuple[float, float, list[float]]:
    """Wall seconds of the sweep, its trials' own, and for each trial the seconds from its start to its first step.

    A trial starts when its MLflow run is begun; its first step is the first report's time less what the report says
    training and validating have taken.
    """
    first: dict[str, float] = {}

    def watch(event: Event) -> None:
        if event.status == "running" and event.epoch == 1:
            first[event.trial] = time.time()

    begun = time.monotonic()
    result = sweep(space, place, watch=watch)
    wall = time.monotonic() - begun
    tracker, own, starts = Tracker.of(place), 0.0, {}
    for outcome in result.outcomes:
        run = tracker.run(outcome.run_id)
        columns = {
            name: [point.value for point in tracker.client.get_metric_history(outcome.run_id, name)]
            for name in ("seconds", "validation_seconds")
        }
        own += columns["seconds"][-1] + sum(columns["validation_seconds"])
        spent = columns["seconds"][0] + columns["validation_seconds"][0]
        starts[run.info.start_time] = first[str(run.info.run_name)] - spent - run.info.start_time / 1000
    return wall, own, [starts[when] for when in sorted(starts)]


if __name__ == "__main__":
    main()

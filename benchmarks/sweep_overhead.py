"""What does a sweep cost on top of its training? The same trials by Ray Tune and as a plain loop.

    python -m benchmarks.sweep_overhead [--seconds 60] [--trials 4]      # after `make demo`, on its encodings

Prints wall time x cores of the sweep over the sum of its trials' own time (training and validation, as each trial
measures it), the same ratio of the plain loop, and the time from a trial's start to its first step.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch

from retreever.encoding.encoding_store import open_encoded_dataset
from retreever.sweeps import search_space as spaces
from retreever.sweeps.run_sweep import SweepEvent, run_sweep
from retreever.sweeps.space_grammar import SearchSpace
from retreever.system.workspace import Workspace
from retreever.tracking.tracker import Tracker
from retreever.training.training_loop import fit

BASE_CONFIG = {
    "data": {"name": "docstrings"},
    "encoder": {"passage_max_length": 32, "query_max_length": 32},
    "tree": {"depth": 8},
}
PROBE_STEPS = 20


def main() -> None:
    """Measure a step, choose the number of steps that fills the seconds, run both and print the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60, help="length of a trial")
    parser.add_argument("--trials", type=int, default=4)
    options = parser.parse_args()
    here, torch_threads = Workspace.default(), torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        place = Workspace.at(Path(folder))
        for name in ("data", "encodings"):
            (place.root / name).symlink_to(here.root / name)
        torch.set_num_threads(1)
        space = _make_space(place, options.seconds, options.trials)
        loop, own_loop = _time_loop(space, place)
        torch.set_num_threads(torch_threads)
        wall, own, starts = _time_sweep(space, place)
    cores = os.cpu_count() or 1
    print(f"{options.trials} trials of about {own / options.trials:.0f} s, {cores} cores")
    print(f"plain loop, one process: {loop:.1f} s wall, {own_loop:.1f} s of trials, ratio {loop / own_loop:.3f}")
    print(f"sweep: {wall:.1f} s wall x {cores} cores, {own:.1f} s of trials, ratio {wall * cores / own:.3f}")
    print(f"sweep against loop, wall time: {wall / loop:.3f}")
    print("start of a trial to its first step, in order: " + ", ".join(f"{start:.1f} s" for start in starts))


def _make_space(place: Workspace, seconds: float, trials: int) -> SearchSpace:
    """Make a grid over seeds whose trials take about `seconds` each."""
    probe = _make_grid({"steps": PROBE_STEPS, "eval_every": PROBE_STEPS, "batch_size": 512}, 1)
    (trial,) = spaces.list_trials(probe)
    with tempfile.TemporaryDirectory() as folder:
        found = fit(trial.config, open_encoded_dataset(trial.config, place), Path(folder)).best
    steps = max(PROBE_STEPS, round(seconds / (found["seconds"] / PROBE_STEPS)))
    return _make_grid({"steps": steps, "eval_every": -(-steps // 3), "batch_size": 512}, trials)


def _make_grid(train: dict[str, int], trials: int) -> SearchSpace:
    return SearchSpace(name="overhead", scheduler="none", seeds=trials, config=BASE_CONFIG | {"train": train})


def _time_loop(space: SearchSpace, place: Workspace) -> tuple[float, float]:
    """Wall seconds of the trials in sequence, and the sum of their own."""
    start, own = time.monotonic(), 0.0
    for trial in spaces.list_trials(space):
        config = trial.config
        own += _sum_trial_seconds(
            fit(config, open_encoded_dataset(config, place), place.root / "loop" / trial.key).history
        )
    return time.monotonic() - start, own


def _sum_trial_seconds(history: list[dict[str, float]]) -> float:
    """Seconds of training and of all validations."""
    return history[-1]["seconds"] + sum(figures["validation_seconds"] for figures in history)


def _time_sweep(space: SearchSpace, place: Workspace) -> tuple[float, float, list[float]]:
    """Wall seconds of the sweep, its trials' own, and for each trial the seconds from its start to its first step.

    A trial starts with its MLflow run. Its first step is the time of the first report minus the training and validation
    time in that report.
    """
    first: dict[str, float] = {}

    def watch(event: SweepEvent) -> None:
        if event.status == "running" and event.epoch == 1:
            first[event.trial] = time.time()

    start = time.monotonic()
    result = run_sweep(space, place, watch=watch)
    wall = time.monotonic() - start
    tracker, own, starts = Tracker.of(place), 0.0, {}
    for outcome in result.outcomes:
        run = tracker.get_run(outcome.run_id)
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

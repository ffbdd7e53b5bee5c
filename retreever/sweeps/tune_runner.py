"""Ray Tune's part of a sweep: places trials, stops the weak, and asks a `Feed` what comes next when one has ended."""

import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune
from ray.exceptions import OutOfMemoryError
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from retreever.cluster.ray_runtime import DRIVER
from retreever.cluster.train_worker import LAST
from retreever.config import Config
from retreever.errors import ConfigError
from retreever.evaluation.metrics import METRIC
from retreever.sweeps.space_grammar import SearchSpace
from retreever.sweeps.trial_worker import ACTOR, TreeTrial, train_driver
from retreever.system.files import read_json

COLOURS = re.compile("\x1b\\[[0-9;]*m")
"""What Ray puts into a traceback for a terminal."""


class Feed(Protocol):
    """What a sweep gives to Tune and hears of it. A trial is known by its key."""

    def next(self) -> dict[str, Any] | None:
        """The next trial in plain values, with its `key`; None when there is no more."""

    def reported(self, key: str, epoch: int, metric: float) -> None: ...

    def ended(self, key: str, finished: bool, figures: dict[str, Any], traceback: str | None) -> None: ...


def run(feed: Feed, space: SearchSpace, folder: Path, longest: int) -> bool:
    """Run all that `feed` has on the cluster joined; returns when it has no more, or at Ctrl-C.

    Tune gives up where Ray kills a trial for memory: that trial has ended then, others have been interrupted.

    Args:
        longest: validations of the longest trial.

    Returns:
        Whether it came to its end; false where a trial was killed for memory.

    Raises:
        ConfigError: the cluster can never hold one trial.
    """
    recorder = _Recorder(feed)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it looks for files that we have it not write
    trainable, resources = (TreeTrial, {"CPU": 1}) if space.workers == 1 else (train_driver, {DRIVER: 1})
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space={},
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            search_alg=_Asker(feed.next),
            num_samples=-1,
            scheduler=scheduler(space, longest),
            reuse_actors=space.workers == 1,
            trial_dirname_creator=lambda trial: trial.config["trial"]["key"],
            max_concurrent_trials=concurrent(space),
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0, callbacks=[recorder]),
    )
    try:
        tuner.fit()
    except RuntimeError as error:
        if not (isinstance(error.__cause__, OutOfMemoryError) and recorder.killed(str(error.__cause__))):
            raise
        return False
    return True


def concurrent(space: SearchSpace) -> int:
    """How many trials fit on the cluster joined at once.

    Raises:
        ConfigError: not even one; the message says what is missing.
    """
    have = ray.cluster_resources()
    cpus, drivers = have.get("CPU", 0), have.get(DRIVER, 0)
    fit = int(cpus // space.workers)
    if space.workers > 1:
        fit = min(fit, int(drivers))
    if fit < 1:
        needs = f"{space.workers} CPUs" + (f" and 1 {DRIVER}" if space.workers > 1 else "")
        raise ConfigError(
            [f"sweep {space.name}: a trial needs {needs}; the cluster has {cpus:g} CPUs and {drivers:g} {DRIVER}"]
        )
    return fit


def validations(configs: Iterable[Config]) -> int:
    """Validations of the longest of these trainings."""
    return max(-(-config.train.steps // config.train.eval_every) for config in configs)


def scheduler(space: SearchSpace, longest: int) -> TrialScheduler:
    """What stops trials early. Time is counted in validations."""
    if space.scheduler == "none":
        return FIFOScheduler()
    if space.scheduler == "median":
        return MedianStoppingRule(
            time_attr="epoch", grace_period=space.median.grace, min_samples_required=space.median.trials
        )
    return ASHAScheduler(
        time_attr="epoch",
        grace_period=min(space.asha.grace, longest),
        reduction_factor=space.asha.reduction,
        max_t=longest + 1,  # a trial ends by itself; stopped at max_t its last words would be lost
    )


class _Unsaved:
    """Tune pickles what it is given for a restore that we do not use; this saves nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Asker(_Unsaved, Searcher):
    """Hands Tune what the feed has next; the feed itself hears of ends through `_Recorder`."""

    def __init__(self, ask: Callable[[], dict[str, Any] | None]):
        super().__init__()
        self._ask = ask

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        plain = self._ask()
        return Searcher.FINISHED if plain is None else {"trial": plain}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Heard by the recorder."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class _Recorder(_Unsaved, tune.Callback):
    """Hands Tune's events to the feed as they come."""

    def __init__(self, feed: Feed):
        self._feed = feed
        self._folders: dict[str, Path] = {}  # of the trials that run

    def killed(self, message: str) -> bool:
        """End the trials whose actors Ray says it has killed; whether there were any."""
        actors = {key: folder / ACTOR for key, folder in self._folders.items() if (folder / ACTOR).is_file()}
        victims = [key for key, file in actors.items() if read_json(file)["actor"] in message]
        for key in victims:
            self._feed.ended(key, False, {}, f"killed by Ray, the node is short of memory\n{message}")
        return bool(victims)

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        plain = trial.config["trial"]
        self._folders[plain["key"]] = Path(plain["job"]["folder"])

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        self._feed.reported(trial.config["trial"]["key"], result["epoch"], result[METRIC])

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        last = trial.last_result
        self._folders.pop(trial.config["trial"]["key"], None)
        self._feed.ended(trial.config["trial"]["key"], bool(last.get(LAST)), last, None)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else "unknown error"
        self._folders.pop(trial.config["trial"]["key"], None)
        self._feed.ended(trial.config["trial"]["key"], False, trial.last_result or {}, COLOURS.sub("", text))

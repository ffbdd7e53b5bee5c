"""Ray Tune's part of a sweep: it places trials, stops weak ones, and asks a `TrialFeed` for the next one.

What a trial is, and how a sweep resumes, is not known here.
"""

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

from retreever.cluster.ray_runtime import DRIVER_RESOURCE
from retreever.cluster.train_worker import LAST_REPORT_KEY
from retreever.config import Config
from retreever.errors import ConfigError
from retreever.evaluation.metrics import METRIC
from retreever.sweeps.space_grammar import SearchSpace
from retreever.sweeps.trial_worker import ACTOR_FILE, TreeTrial, run_train_trial
from retreever.system.files import read_json

ANSI_COLORS = re.compile("\x1b\\[[0-9;]*m")
"""Escape codes that Ray puts into a traceback for a terminal."""


class TrialFeed(Protocol):
    """What a sweep gives to Tune and learns from it. A trial is identified by its key."""

    def next(self) -> dict[str, Any] | None:
        """The next trial in plain values, with its `key`; None if no trial remains."""

    def record_validation(self, key: str, epoch: int, metric: float) -> None: ...

    def record_end(self, key: str, finished: bool, figures: dict[str, Any], traceback: str | None) -> None: ...


def run_tune(feed: TrialFeed, space: SearchSpace, folder: Path, longest: int) -> bool:
    """Run all trials of `feed` on the cluster that this process has joined; return when none remains, or at Ctrl-C.

    Tune gives up if Ray kills a trial for memory: that trial has then ended, and the others were interrupted.

    Args:
        longest: validations of the longest trial.

    Returns:
        Whether no trial remains; false if a trial was killed for memory.

    Raises:
        ConfigError: the cluster is too small for one trial.
    """
    callback = _FeedCallback(feed)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it warns about files that we tell it not to write
    trainable, resources = (TreeTrial, {"CPU": 1}) if space.workers == 1 else (run_train_trial, {DRIVER_RESOURCE: 1})
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space={},
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            search_alg=_FeedSearcher(feed.next),
            num_samples=-1,
            scheduler=make_scheduler(space, longest),
            reuse_actors=space.workers == 1,
            trial_dirname_creator=lambda trial: trial.config["trial"]["key"],
            max_concurrent_trials=count_concurrent_trials(space),
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0, callbacks=[callback]),
    )
    try:
        tuner.fit()
    except RuntimeError as error:
        if not (isinstance(error.__cause__, OutOfMemoryError) and callback.end_killed_trials(str(error.__cause__))):
            raise
        return False
    return True


def count_concurrent_trials(space: SearchSpace) -> int:
    """How many trials fit at once on the cluster that this process has joined.

    Raises:
        ConfigError: none fits; the message says what is missing.
    """
    have = ray.cluster_resources()
    cpus, drivers = have.get("CPU", 0), have.get(DRIVER_RESOURCE, 0)
    fit = int(cpus // space.workers)
    if space.workers > 1:
        fit = min(fit, int(drivers))
    if fit < 1:
        needs = f"{space.workers} CPUs" + (f" and 1 {DRIVER_RESOURCE}" if space.workers > 1 else "")
        raise ConfigError(
            [
                f"sweep {space.name}: a trial needs {needs}; the cluster has {cpus:g} CPUs and {drivers:g} "
                f"{DRIVER_RESOURCE}"
            ]
        )
    return fit


def count_validations(configs: Iterable[Config]) -> int:
    """Number of validations of the longest of these trainings."""
    return max(-(-config.train.steps // config.train.eval_every) for config in configs)


def make_scheduler(space: SearchSpace, longest: int) -> TrialScheduler:
    """The scheduler that stops trials early. It counts time in validations."""
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
        max_t=longest + 1,  # a trial ends by itself; one stopped at max_t would lose its last report
    )


class _NotPickled:
    """Pickles to nothing: Tune pickles its parts for a restore that we do not use."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _FeedSearcher(_NotPickled, Searcher):
    """Hands the feed's next trial to Tune; `_FeedCallback` tells the feed how trials end."""

    def __init__(self, ask: Callable[[], dict[str, Any] | None]):
        super().__init__()
        self._ask = ask

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        plain = self._ask()
        return Searcher.FINISHED if plain is None else {"trial": plain}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: `_FeedCallback` records the end."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class _FeedCallback(_NotPickled, tune.Callback):
    """Passes Tune's events to the feed."""

    def __init__(self, feed: TrialFeed):
        self._feed = feed
        self._folders: dict[str, Path] = {}  # of running trials, by key

    def end_killed_trials(self, message: str) -> bool:
        """Record the end of the trials whose actors Ray's message names as killed; return whether there are any."""
        actors = {key: folder / ACTOR_FILE for key, folder in self._folders.items() if (folder / ACTOR_FILE).is_file()}
        victims = [key for key, file in actors.items() if read_json(file)["actor"] in message]
        for key in victims:
            self._feed.record_end(key, False, {}, f"killed by Ray, the node is short of memory\n{message}")
        return bool(victims)

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        plain = trial.config["trial"]
        self._folders[plain["key"]] = Path(plain["job"]["folder"])

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        self._feed.record_validation(trial.config["trial"]["key"], result["epoch"], result[METRIC])

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        last = trial.last_result
        self._folders.pop(trial.config["trial"]["key"], None)
        self._feed.record_end(trial.config["trial"]["key"], bool(last.get(LAST_REPORT_KEY)), last, None)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else "unknown error"
        self._folders.pop(trial.config["trial"]["key"], None)
        self._feed.record_end(trial.config["trial"]["key"], False, trial.last_result or {}, ANSI_COLORS.sub("", text))

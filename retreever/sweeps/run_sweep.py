"""A sweep: every trial of a search space by Ray Tune, all nested under one MLflow run, resumed where it was left.

A trial is known by the digest of its configuration, never by its number: what a folder says is finished is not run
again, what was interrupted goes on from its checkpoint. Tune's own state (pickle) is not used for that.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from retreever import config as configs
from retreever.cluster.ray_runtime import cluster
from retreever.cluster.train_job import Job
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset, open_dataset
from retreever.errors import BundleError, TrainingError
from retreever.evaluation.metrics import METRIC
from retreever.sweeps import search_space as spaces
from retreever.sweeps import sweep_summary, tune_runner
from retreever.sweeps.search_space import Trial
from retreever.sweeps.space_grammar import SearchSpace
from retreever.sweeps.trial_latency import LATENCY
from retreever.sweeps.trial_outcome import Outcome, Status, ranked, reason
from retreever.sweeps.trial_suggestion import End, Search, search
from retreever.system.files import read_json, write_json
from retreever.system.lock import held
from retreever.system.progress import Track, silent
from retreever.system.workspace import Workspace
from retreever.tracking.run_record import BYTES, begin, bytes_per_document
from retreever.tracking.tracker import Status as RunStatus
from retreever.tracking.tracker import Tracker
from retreever.tracking.watchdog import watched
from retreever.training import checkpoint


@dataclass(frozen=True)
class Event:
    """Something that happened in a sweep, for whoever shows it."""

    trial: str
    status: Literal["running", "finished", "stopped", "failed"]
    epoch: int
    metric: float | None
    ended: int
    total: int


Watch = Callable[[Event], object]
ENDS: dict[Status, RunStatus] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
"""How MLflow calls an outcome."""


@dataclass(frozen=True)
class SweepResult:
    """A sweep that has ended: all outcomes, the best first.

    Attributes:
        spent: the budget of minutes ended it with trials left; the same command goes on.
    """

    folder: Path
    parent: str
    outcomes: list[Outcome]
    configs: dict[str, Config]
    space: SearchSpace
    spent: bool = False

    @property
    def answer(self) -> str:
        """To the question that the space is about, in words and a table; empty where it is about none."""
        path = self.folder / "answer.md"
        return path.read_text(encoding="utf-8") if self.space.about is not None and path.is_file() else ""

    @property
    def front(self) -> list[Outcome]:
        """The trials that no other beats, where the space has several objectives."""
        return sweep_summary.front(self.space, self.outcomes) if len(self.space.objectives) > 1 else []

    @property
    def best(self) -> Outcome:
        """The trial with the best dev NDCG@10.

        Raises:
            TrainingError: no trial has come to a validation.
        """
        if not self.outcomes or not self.outcomes[0].best:
            reasons = {outcome.error for outcome in self.outcomes}
            raise TrainingError(f"sweep {self.folder.name}: no trial reached a validation: {reasons}")
        return self.outcomes[0]


def sweep(
    space: SearchSpace, workspace: Workspace, *, track: Track = silent, watch: Watch = lambda event: None
) -> SweepResult:
    """Run what is not done yet of `space` and return all of it.

    Raises:
        ConfigError: the cluster can never hold one trial, or another process runs this sweep.
        KeyboardInterrupt: Ctrl-C; finished trials are kept and no MLflow run stays RUNNING.
    """
    started = time.monotonic()
    folder = workspace.sweeps / f"{space.name}-{spaces.space_digest(space)}"
    with held(folder, f"sweep {space.name}"):
        run = _Sweep(space, workspace, folder, track, watch)
        with watched(folder, run.tracker.uri, run.parent):
            try:
                run.tune()
            finally:
                run.settle()
                run.tracker.end(run.parent, "KILLED" if run.interrupted else "FINISHED")
            if run.interrupted:
                raise KeyboardInterrupt(f"sweep {folder.name} is not finished")
            return run.conclude(time.monotonic() - started)


class _Sweep:
    """One call of `sweep`: what is known of each trial, and what comes next."""

    def __init__(self, space: SearchSpace, workspace: Workspace, folder: Path, track: Track, watch: Watch):
        self.space, self.workspace, self.folder, self.watch = space, workspace, folder, watch
        self.tracker = Tracker.of(workspace)
        self.edges, self.size = spaces.edges(space), spaces.size(space)
        self._open: dict[str, EncodedDataset] = {}
        # Encodes what is not in the store, once, before any trial starts; an entry with tokens serves all.
        for trial in sorted(self.edges, key=lambda trial: not trial.config.encoding.tokens):
            self._data(trial.config, track)
        self.trials: dict[str, Trial] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.run_ids: dict[str, str] = {}
        self.search = self._search()
        self.parent = self._parent()
        self.waiting = self.search.next()
        self.spent, self.deadline = False, float("inf")

    def _data(self, config: Config, track: Track = silent) -> EncodedDataset:
        key = str((config.data.name, config.data.on_bad, config.encoding))
        if key not in self._open:
            self._open[key] = open_dataset(config, self.workspace, track)
        return self._open[key]

    @property
    def interrupted(self) -> bool:
        """Trials that began have not ended, or some never began though there was time."""
        return len(self.outcomes) < len(self.trials) or (self.waiting is not None and not self.spent)

    def _search(self) -> Search:
        """Read what the trials' folders tell, and a search that knows it."""
        begun = []
        for record in sorted(self.folder.glob("trials/*/run.json")):
            values = read_json(record)
            trial = Trial(values["varied"], configs.build(spaces.fixed(self.space), values["varied"]))
            if trial.key != record.parent.name:  # of a version with other defaults
                continue
            if record.with_name("trial.json").is_file():
                self.trials[trial.key] = trial
                self.outcomes[trial.key] = Outcome(**read_json(record.with_name("trial.json")))
            else:
                begun.append(trial)
        past = [self._end(outcome) for outcome in self.outcomes.values()]
        return search(self.space, past, begun)

    def _end(self, outcome: Outcome) -> End:
        return End(self.trials[outcome.key], outcome.status, outcome.values(self.space.objectives))

    def _parent(self) -> str:
        """The sweep's MLflow run: the one it has had, or a new one."""
        record = self.folder / "sweep.json"
        known = read_json(record)["parent"] if record.is_file() else None
        if known and self.tracker.exists(known):
            self.tracker.resume(known)
            self._forget_half_begun(known)
            return str(known)
        experiment = self.tracker.experiment(self.workspace)
        tags = {"kind": "sweep", "space": self.space.name, "search": self.space.search, "sweep": self.folder.name}
        parent = self.tracker.start(experiment, f"sweep {self.space.name}", tags=tags)
        write_json(record, {"parent": parent, "space": self.space.model_dump(mode="json")})
        self.tracker.artifact(parent, record)
        return parent

    def _forget_half_begun(self, parent: str) -> None:
        """Delete runs that a kill caught between their making and their note in the trial's folder."""
        for child in self.tracker.children(parent):
            key = child.data.tags.get("trial")
            if key and not (self._folder(key) / "run.json").is_file():
                self.tracker.client.delete_run(child.info.run_id)

    def settle(self) -> None:
        """Leave no run RUNNING and every ended trial's run as its folder says: a kill may have come between the two."""
        self.tracker.end_orphans(self.parent)
        for child in self.tracker.children(self.parent):
            key = child.data.tags.get("trial")
            if key is None:  # the winner, trained once more
                continue
            outcome = self.outcomes.get(key)
            status = outcome.status if outcome else "interrupted"
            if outcome and child.info.status != ENDS[outcome.status]:
                self.tracker.end(child.info.run_id, ENDS[outcome.status])
            if child.data.tags.get("status") != status:
                self.tracker.tag(child.info.run_id, {"status": status})

    def tune(self) -> None:
        """Run what is left."""
        if self.waiting is None:
            return
        if self.space.budget.minutes is not None:
            self.deadline = time.monotonic() + 60 * self.space.budget.minutes
        with cluster(self.workspace, dashboard=self.space.workers > 1):
            longest = tune_runner.validations(trial.config for trial in self.edges)
            while not tune_runner.run(self, self.space, self.folder, longest):
                self.search = self._search()  # goes on with what was interrupted
                self.waiting = self.search.next()

    def next(self) -> dict[str, Any] | None:
        """The next trial in plain values, its MLflow run begun."""
        trial = self.waiting
        if trial is None:
            trial = self.waiting = self.search.next()
        if trial is None or time.monotonic() > self.deadline:
            self.spent = trial is not None
            return None
        self.run_ids[trial.key] = self._run_of(trial)
        self.trials[trial.key], self.waiting = trial, None
        job = Job(
            trial.config.model_dump(mode="json"),
            str(self.workspace.root),
            str(self._folder(trial.key)),
            self.tracker.uri,
            self.run_ids[trial.key],
        )
        return {
            "key": trial.key,
            "job": job.plain(),
            "workers": self.space.workers,
            "timed": LATENCY in self.space.objectives,
        }

    def _folder(self, key: str) -> Path:
        return self.folder / "trials" / key

    def _run_of(self, trial: Trial) -> str:
        """The trial's MLflow run: the one it had before an interrupt, or a new one."""
        record = self._folder(trial.key) / "run.json"
        known = read_json(record)["run_id"] if record.is_file() else None
        if known and self.tracker.exists(known):
            self.tracker.tag(known, {"status": "running"})
            return str(known)
        run_id = begin(
            self.tracker,
            self.workspace,
            trial.label or self.space.name,
            trial.config,
            self._data(trial.config),
            workers=self.space.workers,
            parent=self.parent,
            tags={
                "kind": "trial",
                "space": self.space.name,
                "sweep": self.folder.name,
                "trial": trial.key,
                "status": "running",
            },
        )
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, {"run_id": run_id, "varied": trial.varied})
        return run_id

    def reported(self, key: str, epoch: int, metric: float) -> None:
        """A trial has come to a validation."""
        self._tell(self.trials[key], "running", epoch, metric)

    def ended(self, key: str, finished: bool, figures: dict[str, Any], traceback: str | None) -> None:
        """Note how a trial ended, on disk and in MLflow."""
        trial, run_id = self.trials[key], self.run_ids[key]
        error = reason(traceback) if traceback else None
        status: Status = "failed" if error else "finished" if finished else "stopped"
        state = self._state(key)
        sizes = {BYTES: float(bytes_per_document(trial.config))} if state.best else {}
        measured = {LATENCY: float(figures[LATENCY])} if LATENCY in figures else {}
        outcome = Outcome(key, trial.varied, status, run_id, state.best | sizes | measured, error)
        self.outcomes[key] = outcome
        write_json(self._folder(key) / "trial.json", asdict(outcome))
        self.tracker.log(run_id, measured)
        told = {"error": error, "traceback": str(traceback)} if error else {}
        self.tracker.tag(run_id, {"status": status, **told})
        self.tracker.end(run_id, ENDS[status])
        self.search.tell(self._end(outcome))
        self._tell(trial, status, len(state.history), state.best.get(METRIC))

    def _state(self, key: str) -> checkpoint.State:
        try:
            return checkpoint.read_state(self._folder(key) / "checkpoint")
        except BundleError:  # it failed before its first validation
            return checkpoint.State(key)

    def _tell(self, trial: Trial, status: Any, epoch: int, metric: float | None) -> None:
        self.watch(Event(trial.label, status, epoch, metric, len(self.outcomes), self.size))

    def conclude(self, seconds: float) -> SweepResult:
        """Order the outcomes; table, plots, best values and the answer go to the folder and to the parent run."""
        ordered = ranked(list(self.outcomes.values()))
        result = SweepResult(
            self.folder, self.parent, ordered, {k: t.config for k, t in self.trials.items()}, self.space, self.spent
        )
        for path in sweep_summary.write(self.folder, self.space, ordered, result.configs):
            self.tracker.artifact(self.parent, path)
        if ordered and ordered[0].best:
            self.tracker.log(self.parent, {f"best/{k}": v for k, v in ordered[0].best.items()})
            self.tracker.tag(self.parent, {f"best.{k}": str(v) for k, v in ordered[0].varied.items()})
        counts = {f"trials/{status}": float(sum(o.status == status for o in ordered)) for status in ENDS}
        self.tracker.log(self.parent, counts | {"seconds": seconds})
        if result.answer:
            self.tracker.tag(self.parent, {"answer": result.answer})
        return result

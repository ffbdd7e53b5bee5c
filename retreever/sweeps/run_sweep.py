"""A sweep: every trial of a search space by Ray Tune, nested under one MLflow run, resumed after an interrupt.

A trial is identified by the digest of its configuration, not by a number. A trial whose folder holds its end does not
run again; an interrupted trial resumes from its checkpoint. Tune's own state (pickle) is not used. Which point comes
next is decided in `trial_suggestion.py`, when a trial stops early in `tune_runner.py`.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retreever.cluster.ray_runtime import join_cluster
from retreever.cluster.train_job import TrainingJob
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset, open_encoded_dataset
from retreever.errors import BundleError, TrainingError
from retreever.evaluation.metrics import METRIC
from retreever.sweeps import search_space as spaces
from retreever.sweeps import sweep_summary, tune_runner
from retreever.sweeps.search_space import SweepTrial
from retreever.sweeps.space_grammar import SearchSpace
from retreever.sweeps.trial_latency import LATENCY_METRIC
from retreever.sweeps.trial_outcome import (
    OUTCOME_FILE,
    SweepCallback,
    SweepEvent,
    TrialOutcome,
    TrialStatus,
    extract_reason,
    rank_outcomes,
    read_trials,
)
from retreever.sweeps.trial_suggestion import TrialEnd, TrialSearch, create_search
from retreever.system.files import write_json
from retreever.system.lock import lock_folder
from retreever.system.progress import Track, track_silently
from retreever.system.workspace import Workspace
from retreever.tracking.run_record import BYTES_METRIC, RUN_RECORD, begin_run, index_bytes_per_document
from retreever.tracking.tracker import RunStatus, Tracker
from retreever.tracking.watchdog import watch_driver
from retreever.training import checkpoint

RUN_STATUSES: dict[TrialStatus, RunStatus] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
"""The status of a trial's MLflow run."""


@dataclass(frozen=True)
class SweepResult:
    """A sweep that has ended.

    Attributes:
        parent: id of its MLflow run.
        outcomes: of all trials that have ended, the best first.
        configs: by the outcomes' keys.
        is_budget_spent: the budget of minutes ended before all trials had started; the same command runs the rest.
    """

    folder: Path
    parent: str
    outcomes: list[TrialOutcome]
    configs: dict[str, Config]
    space: SearchSpace
    is_budget_spent: bool = False

    @property
    def answer(self) -> str:
        """The answer to the space's question, in words and a table; empty if the space has no question."""
        path = self.folder / "answer.md"
        return path.read_text(encoding="utf-8") if self.space.about is not None and path.is_file() else ""

    @property
    def pareto_front(self) -> list[TrialOutcome]:
        """The trials that no other trial dominates; empty if the space has one objective."""
        return sweep_summary.rank_pareto_front(self.space, self.outcomes) if len(self.space.objectives) > 1 else []

    @property
    def best(self) -> TrialOutcome:
        """The trial with the best dev NDCG@10.

        Raises:
            TrainingError: no trial reached a validation.
        """
        if not self.outcomes or not self.outcomes[0].best:
            reasons = {outcome.error for outcome in self.outcomes}
            raise TrainingError(f"sweep {self.folder.name}: no trial reached a validation: {reasons}")
        return self.outcomes[0]


def run_sweep(
    space: SearchSpace,
    workspace: Workspace,
    *,
    track: Track = track_silently,
    watch: SweepCallback = lambda event: None,
) -> SweepResult:
    """Run the trials of `space` that have not ended yet, and return the outcomes of all.

    Args:
        track: shows the encoding of texts.
        watch: receives every trial's validations and its end.

    Raises:
        ConfigError: the cluster is too small for one trial, or another process runs this sweep.
        DataError: a data set cannot be read, or has no dev pairs to rank trials on.
        KeyboardInterrupt: Ctrl-C; finished trials are kept and no MLflow run stays RUNNING.
    """
    started = time.monotonic()
    folder = workspace.sweeps / f"{space.name}-{spaces.space_digest(space)}"
    with lock_folder(folder, f"sweep {space.name}"):
        run = _Sweep(space, workspace, folder, track, watch)
        with watch_driver(folder, run.tracker.uri, run.parent), run.tracker.keep_running(run.parent):
            try:
                run.tune()
            finally:
                run.settle()
            if run.was_interrupted:
                raise KeyboardInterrupt(f"sweep {folder.name} is not finished")
            return run.conclude(time.monotonic() - started)


class _Sweep:
    """One call of `run_sweep`: what is known of each trial, and which comes next."""

    def __init__(self, space: SearchSpace, workspace: Workspace, folder: Path, track: Track, watch: SweepCallback):
        self.space, self.workspace, self.folder, self.watch = space, workspace, folder, watch
        self.tracker = Tracker.of(workspace)
        self.edges, self.size = spaces.list_corner_trials(space), spaces.count_trials(space)
        self._datasets: dict[str, EncodedDataset] = {}
        # Encodes texts once, before any trial starts; an entry with tokens serves all trials.
        for trial in sorted(self.edges, key=lambda trial: not trial.config.encoding.tokens):
            for config in (trial.config, *trial.config.guards.values()):
                self._open_data(config, track)
            self._open_data(trial.config).dataset.require_pairs("dev", "a sweep ranks its trials on it")
        self.trials: dict[str, SweepTrial] = {}
        self.outcomes: dict[str, TrialOutcome] = {}
        self.run_ids: dict[str, str] = {}
        self.search = self._restore_search()
        self.parent = self._open_parent()
        self.waiting = self.search.next()
        self.is_budget_spent, self.deadline = False, float("inf")

    def _open_data(self, config: Config, track: Track = track_silently) -> EncodedDataset:
        key = str((config.data.name, config.data.on_bad, config.encoding))
        if key not in self._datasets:
            self._datasets[key] = open_encoded_dataset(config, self.workspace, track)
        return self._datasets[key]

    @property
    def was_interrupted(self) -> bool:
        """Whether a trial that began has not ended, or one never began although there was time."""
        return len(self.outcomes) < len(self.trials) or (self.waiting is not None and not self.is_budget_spent)

    def _restore_search(self) -> TrialSearch:
        """Read the trials' folders; return a search that knows them."""
        begun = []
        for trial, outcome in read_trials(self.folder, self.space):
            if outcome is None:
                begun.append(trial)
            else:
                self.trials[trial.key], self.outcomes[trial.key] = trial, outcome
        past = [self._trial_end(outcome) for outcome in self.outcomes.values()]
        return create_search(self.space, past, begun)

    def _trial_end(self, outcome: TrialOutcome) -> TrialEnd:
        return TrialEnd(self.trials[outcome.key], outcome.status, outcome.objective_values(self.space.objectives))

    def _open_parent(self) -> str:
        """The sweep's MLflow run, started on first use."""
        record, experiment = self.folder / "sweep.json", self.tracker.get_experiment(self.workspace)
        tags = {"kind": "sweep", "space": self.space.name, "search": self.space.search, "sweep": self.folder.name}
        parent = self.tracker.find_or_start(
            record,
            lambda: self.tracker.start(experiment, f"sweep {self.space.name}", tags=tags),
            key="parent",
            space=self.space.model_dump(mode="json"),
        )
        self._delete_unrecorded_runs(parent)
        self.tracker.log_artifact(parent, record)
        return parent

    def _delete_unrecorded_runs(self, parent: str) -> None:
        """Delete runs whose driver was killed after it started them and before it wrote the trial's record."""
        for child in self.tracker.list_children(parent):
            key = child.data.tags.get("trial")
            if key and not (self._trial_folder(key) / RUN_RECORD).is_file():
                self.tracker.client.delete_run(child.info.run_id)

    def settle(self) -> None:
        """End every run that is RUNNING, and bring each ended trial's run in line with the trial's folder.

        The two differ if an earlier driver was killed between writing the folder and ending the run.
        """
        self.tracker.end_orphans(self.parent)
        for child in self.tracker.list_children(self.parent):
            key = child.data.tags.get("trial")
            if key is None:  # the final training of the best trial
                continue
            outcome = self.outcomes.get(key)
            status = outcome.status if outcome else "interrupted"
            if outcome and child.info.status != RUN_STATUSES[outcome.status]:
                self.tracker.end(child.info.run_id, RUN_STATUSES[outcome.status])
            if child.data.tags.get("status") != status:
                self.tracker.tag(child.info.run_id, {"status": status})

    def tune(self) -> None:
        """Run the trials that have not ended."""
        if self.waiting is None:
            return
        if self.space.budget.minutes is not None:
            self.deadline = time.monotonic() + 60 * self.space.budget.minutes
        with join_cluster(self.workspace, dashboard=self.space.workers > 1):
            longest = tune_runner.count_validations(trial.config for trial in self.edges)
            while not tune_runner.run_tune(self, self.space, self.folder, longest):
                self.search = self._restore_search()  # resumes the trials that were interrupted
                self.waiting = self.search.next()

    def next(self) -> dict[str, Any] | None:
        """Open the next trial's MLflow run; return the trial in plain values, or None if no trial may start."""
        trial = self.waiting
        if trial is None:
            trial = self.waiting = self.search.next()
        if trial is None or time.monotonic() > self.deadline:
            self.is_budget_spent = trial is not None
            return None
        self.run_ids[trial.key] = self._open_run(trial)
        self.trials[trial.key], self.waiting = trial, None
        config, place = trial.config.model_dump(mode="json"), str(self._trial_folder(trial.key))
        job = TrainingJob(config, str(self.workspace.root), place, self.tracker.uri, self.run_ids[trial.key])
        timed = LATENCY_METRIC in self.space.objectives
        return {"key": trial.key, "job": job.to_dict(), "workers": self.space.workers, "timed": timed}

    def _trial_folder(self, key: str) -> Path:
        return self.folder / "trials" / key

    def _open_run(self, trial: SweepTrial) -> str:
        """The trial's MLflow run, started on first use."""
        tags = {"kind": "trial", "space": self.space.name, "sweep": self.folder.name, "trial": trial.key}
        run_id = self.tracker.find_or_start(
            self._trial_folder(trial.key) / RUN_RECORD,
            lambda: begin_run(
                self.tracker,
                self.workspace,
                trial.label or self.space.name,
                trial.config,
                self._open_data(trial.config),
                workers=self.space.workers,
                parent=self.parent,
                tags=tags,
            ),
            varied=trial.varied,
        )
        self.tracker.tag(run_id, {"status": "running"})
        return run_id

    def record_validation(self, key: str, epoch: int, metric: float) -> None:
        """Pass on a trial's validation."""
        self._notify(self.trials[key], "running", epoch, metric)

    def record_end(self, key: str, finished: bool, figures: dict[str, Any], traceback: str | None) -> None:
        """Record how a trial ended, on disk, in MLflow and in the search."""
        trial, run_id = self.trials[key], self.run_ids[key]
        error = extract_reason(traceback) if traceback else None
        status: TrialStatus = "failed" if error else "finished" if finished else "stopped"
        state = self._read_state(key)
        sizes = {BYTES_METRIC: float(index_bytes_per_document(trial.config))} if state.best else {}
        measured = {LATENCY_METRIC: float(figures[LATENCY_METRIC])} if LATENCY_METRIC in figures else {}
        outcome = TrialOutcome(key, trial.varied, status, run_id, state.best | sizes | measured, error)
        self.outcomes[key] = outcome
        write_json(self._trial_folder(key) / OUTCOME_FILE, asdict(outcome))
        self.tracker.log(run_id, measured)
        reason = {"error": error, "traceback": str(traceback)} if error else {}
        self.tracker.end(run_id, RUN_STATUSES[status], {"status": status, **reason})
        self.search.tell(self._trial_end(outcome))
        self._notify(trial, status, len(state.history), state.best.get(METRIC))

    def _read_state(self, key: str) -> checkpoint.TrainingState:
        try:
            return checkpoint.read_training_state(self._trial_folder(key) / "checkpoint")
        except BundleError:  # it failed before its first validation
            return checkpoint.TrainingState(key)

    def _notify(self, trial: SweepTrial, status: Any, epoch: int, metric: float | None) -> None:
        self.watch(SweepEvent(trial.label, status, epoch, metric, len(self.outcomes), self.size))

    def conclude(self, seconds: float) -> SweepResult:
        """Order the outcomes; write table, plots, best values and the answer to the folder and the parent run."""
        ordered = rank_outcomes(list(self.outcomes.values()))
        trial_configs = {key: trial.config for key, trial in self.trials.items()}
        result = SweepResult(self.folder, self.parent, ordered, trial_configs, self.space, self.is_budget_spent)
        for path in sweep_summary.write_summary(self.folder, self.space, ordered, result.configs):
            self.tracker.log_artifact(self.parent, path)
        if ordered and ordered[0].best:
            self.tracker.log(self.parent, {f"best/{k}": v for k, v in ordered[0].best.items()})
            self.tracker.tag(self.parent, {f"best.{k}": str(v) for k, v in ordered[0].varied.items()})
        counts = {f"trials/{status}": float(sum(o.status == status for o in ordered)) for status in RUN_STATUSES}
        self.tracker.log(self.parent, counts | {"seconds": seconds})
        if result.answer:
            self.tracker.tag(self.parent, {"answer": result.answer})
        return result

"""What is known of a sweep's trials: their events, how each ended, their records on disk, and the table of all."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from retreever.config import build_config
from retreever.evaluation.metrics import METRIC
from retreever.sweeps.search_space import SweepTrial, list_fixed_settings
from retreever.sweeps.space_grammar import SearchSpace
from retreever.system.files import read_json, write_atomically
from retreever.tracking.run_record import RUN_RECORD

TrialStatus = Literal["finished", "stopped", "failed"]
OUTCOME_FILE = "trial.json"
"""File in a trial's folder that says how the trial ended."""
TABLE_FIGURES = ("ndcg", "guard/", "routing_agreement/", "effective_nodes/")
"""Beginnings of the figures with a slash in their names that the table of all trials has."""


@dataclass(frozen=True)
class SweepEvent:
    """A trial's validation or end, for a display.

    Attributes:
        trial: its label.
        epoch: validations it has done.
        metric: its NDCG@10 on dev; None before the first validation.
        ended: trials of the sweep that have ended.
        total: trials of the sweep.
    """

    trial: str
    status: Literal["running", "finished", "stopped", "failed"]
    epoch: int
    metric: float | None
    ended: int
    total: int


SweepCallback = Callable[[SweepEvent], object]


@dataclass
class TrialOutcome:
    """How a trial ended.

    Attributes:
        key: digest of the trial's configuration.
        varied: the settings that vary in the space, by dotted name.
        run_id: of its MLflow run.
        best: figures of its best validation; empty for a trial that failed before one.
        error: why it failed, in one line.
    """

    key: str
    varied: dict[str, Any]
    status: TrialStatus
    run_id: str
    best: dict[str, float] = field(default_factory=dict)
    error: str | None = None

    def objective_values(self, objectives: Sequence[str]) -> tuple[float, ...] | None:
        """The trial's objectives; None if one of them is missing."""
        if any(name not in self.best for name in objectives):
            return None
        return tuple(self.best[name] for name in objectives)


def read_trials(folder: Path, space: SearchSpace) -> Iterator[tuple[SweepTrial, TrialOutcome | None]]:
    """The trials that have begun in a sweep's folder, each with its outcome; None for an interrupted trial."""
    for record in sorted(folder.glob(f"trials/*/{RUN_RECORD}")):
        varied, outcome = read_json(record)["varied"], record.with_name(OUTCOME_FILE)
        trial = SweepTrial(varied, build_config(list_fixed_settings(space), varied))
        if trial.key == record.parent.name:  # another key is from a version with other defaults
            yield trial, TrialOutcome(**read_json(outcome)) if outcome.is_file() else None


def rank_outcomes(outcomes: Sequence[TrialOutcome]) -> list[TrialOutcome]:
    """Outcomes by dev NDCG@10, the best first; trials without one come last."""
    return sorted(outcomes, key=lambda outcome: -outcome.best.get(METRIC, -1.0))


def list_varied_settings(outcomes: Sequence[TrialOutcome]) -> list[str]:
    """Every setting that varies in at least one trial."""
    return list(dict.fromkeys(name for outcome in outcomes for name in outcome.varied))


def write_trial_table(path: Path, outcomes: Sequence[TrialOutcome]) -> None:
    """Write all trials as CSV: varied settings, status, figures of the best validation, error and MLflow run."""
    figures = sorted({name for o in outcomes for name in o.best if "/" not in name or name.startswith(TABLE_FIGURES)})
    settings = list_varied_settings(outcomes)
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["trial", *settings, "status", *figures, "error", "run_id"])
    for o in outcomes:
        varied = [o.varied.get(name, "") for name in settings]
        writer.writerow([o.key, *varied, o.status, *(o.best.get(f, "") for f in figures), o.error or "", o.run_id])
    with write_atomically(path) as aside:
        aside.write_text(buffer.getvalue(), encoding="utf-8")


def extract_reason(traceback: str) -> str:
    """The line of a traceback that gives the reason, at most 500 characters.

    >>> extract_reason("Traceback (most recent call last):\\n  File ...\\nValueError: too deep\\n")
    'ValueError: too deep'
    """
    lines = [line.strip() for line in traceback.strip().splitlines() if line.strip()]
    for marker in ("OutOfMemoryError", "OOM", "out of memory", "MemoryError"):
        found = next((line for line in lines if marker in line), None)
        if found:
            return f"killed for memory: {found}"[:500]
    died = next((line for line in lines if "ActorDiedError" in line or "actor died" in line), None)
    if died:
        return "its process was killed from outside, for memory most often (exit by SIGKILL)"
    return lines[-1][:500] if lines else "unknown error"

"""How a trial ended, and the table of all of them."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from retreever.evaluation.metrics import METRIC
from retreever.system.files import write_aside

Status = Literal["finished", "stopped", "failed"]


@dataclass
class Outcome:
    """How a trial ended.

    Attributes:
        varied: the settings that vary in the space.
        best: figures of its best validation (empty for a trial that failed before one).
        error: why it failed, in one line.
    """

    key: str
    varied: dict[str, Any]
    status: Status
    run_id: str
    best: dict[str, float] = field(default_factory=dict)
    error: str | None = None

    def values(self, objectives: Sequence[str]) -> tuple[float, ...] | None:
        """Its objectives; None where it came to none of some."""
        if any(name not in self.best for name in objectives):
            return None
        return tuple(self.best[name] for name in objectives)


def ranked(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The best dev NDCG@10 first; trials that came to none last."""
    return sorted(outcomes, key=lambda outcome: -outcome.best.get(METRIC, -1.0))


def names(outcomes: Sequence[Outcome]) -> list[str]:
    """Every setting that varies in some trial."""
    return list(dict.fromkeys(name for outcome in outcomes for name in outcome.varied))


def write_table(path: Path, outcomes: Sequence[Outcome]) -> None:
    """All trials as CSV: what varied, how it ended, figures of the best validation, the MLflow run."""
    figures = sorted({name for o in outcomes for name in o.best if "/" not in name or name.startswith("ndcg")})
    settings = names(outcomes)
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["trial", *settings, "status", *figures, "error", "run_id"])
    for o in outcomes:
        varied = [o.varied.get(name, "") for name in settings]
        writer.writerow([o.key, *varied, o.status, *(o.best.get(f, "") for f in figures), o.error or "", o.run_id])
    with write_aside(path) as aside:
        aside.write_text(buffer.getvalue(), encoding="utf-8")


def reason(traceback: str) -> str:
    """The line of a traceback that says why, at most 500 characters.

    >>> reason("Traceback (most recent call last):\\n  File ...\\nValueError: too deep\\n")
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

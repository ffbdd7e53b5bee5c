"""One training described in JSON values, so that it can be sent to another process or machine."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TrainingJob:
    """One training: its configuration, its folder and its MLflow run.

    Attributes:
        config: the configuration as nested plain values.
        workspace: root of the workspace, absolute, on storage that all workers share.
        folder: the run's own folder.
        tracking_uri: of the MLflow server; None to log nothing.
        run_id: of a run that was started there; None to log nothing.
        threads: torch threads of each worker.
    """

    config: dict[str, Any]
    workspace: str
    folder: str
    tracking_uri: str | None = None
    run_id: str | None = None
    threads: int = 1

    def to_dict(self) -> dict[str, Any]:
        """As a dictionary, for Ray; `TrainingJob(**plain)` is the way back."""
        return asdict(self)

"""One training, said in JSON-able values, so that it travels to another process or machine."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Job:
    """One training: what, where and under which MLflow run.

    Attributes:
        config: the configuration as nested plain values.
        workspace: root of the workspace, absolute, on storage that all workers share.
        folder: the run's own folder.
        tracking_uri: of the MLflow server, with `run_id` of a run already started there; or both None.
        threads: torch threads of each worker.
    """

    config: dict[str, Any]
    workspace: str
    folder: str
    tracking_uri: str | None = None
    run_id: str | None = None
    threads: int = 1

    def plain(self) -> dict[str, Any]:
        """As a dictionary, for Ray; `Job(**plain)` is the way back."""
        return asdict(self)

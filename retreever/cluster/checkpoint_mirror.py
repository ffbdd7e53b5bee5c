"""A run's checkpoints and model in shared storage, so that another machine can resume the run if this one is lost."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retreever.cluster.train_job import TrainingJob
from retreever.system.workspace import Workspace
from retreever.training import checkpoint

if TYPE_CHECKING:
    from retreever.system.storage import Storage


@dataclass(frozen=True)
class CheckpointMirror:
    """A run's folder on this machine and its copy in storage; without storage every method does nothing.

    Attributes:
        name: of the copy in storage.
    """

    folder: Path
    name: str
    storage: "Storage | None"

    @classmethod
    def of(cls, job: TrainingJob) -> "CheckpointMirror":
        """The mirror of a job's folder."""
        workspace = Workspace.at(Path(job.workspace))
        storage = workspace.open_storage()
        return cls(Path(job.folder), workspace.storage_name(Path(job.folder)) if storage else "", storage)

    def latest_step(self) -> int:
        """Optimiser steps in the newest checkpoint, on this machine or in storage; -1 without one."""
        here = checkpoint.find_latest_step(self.folder / "checkpoint")
        return max([here, *map(_parse_step, self._list_checkpoints())])

    def restore(self) -> None:
        """Fetch what storage has and this machine lacks: the last two checkpoints, and the model of a finished run."""
        if self.storage is None:
            return
        here = checkpoint.find_latest_step(self.folder / "checkpoint")
        newer = [name for name in self._list_checkpoints() if _parse_step(name) > here]
        for name in newer[-checkpoint.CHECKPOINTS_KEPT :]:
            self.storage.pull(f"{self.name}/checkpoint/{name}", self.folder / "checkpoint" / name)
        if not (self.folder / "model").is_dir():
            self.storage.pull(f"{self.name}/model", self.folder / "model")

    def store_checkpoint(self, saved: Path) -> None:
        """Copy a checkpoint to storage and delete all but the last two there."""
        if self.storage is None:
            return
        self.storage.push(saved, f"{self.name}/checkpoint/{saved.name}")
        for old in self._list_checkpoints()[: -checkpoint.CHECKPOINTS_KEPT]:
            self.storage.drop(f"{self.name}/checkpoint/{old}")

    def store_model(self) -> None:
        """Copy the finished model to storage."""
        if self.storage is not None:
            self.storage.push(self.folder / "model", f"{self.name}/model")

    def _list_checkpoints(self) -> list[str]:
        return self.storage.list_folders(f"{self.name}/checkpoint") if self.storage else []


def _parse_step(name: str) -> int:
    return int(name.removeprefix("step-"))

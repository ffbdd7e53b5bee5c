"""A run's checkpoints and model in shared storage, so that another machine can go on where this one was lost."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retreever.cluster.train_job import Job
from retreever.system.workspace import Workspace
from retreever.training import checkpoint

if TYPE_CHECKING:
    from retreever.system.storage import Storage


@dataclass(frozen=True)
class Mirror:
    """A run's folder on this machine and its double in storage; without storage nothing is done."""

    folder: Path
    name: str
    storage: "Storage | None"

    @classmethod
    def of(cls, job: Job) -> "Mirror":
        """The mirror of a job's folder."""
        workspace = Workspace.at(Path(job.workspace))
        storage = workspace.storage()
        return cls(Path(job.folder), workspace.named(Path(job.folder)) if storage else "", storage)

    def steps(self) -> int:
        """Optimiser steps that are safe: in the newest checkpoint, here or in storage."""
        return max([checkpoint.steps(self.folder / "checkpoint"), *(_step(name) for name in self._stored())])

    def restore(self) -> None:
        """Fetch what is newer in storage than here: the last two checkpoints, and the model of a finished run."""
        if self.storage is None:
            return
        here = checkpoint.steps(self.folder / "checkpoint")
        for name in [name for name in self._stored() if _step(name) > here][-checkpoint.KEPT :]:
            self.storage.pull(f"{self.name}/checkpoint/{name}", self.folder / "checkpoint" / name)
        if not (self.folder / "model").is_dir():
            self.storage.pull(f"{self.name}/model", self.folder / "model")

    def keep(self, saved: Path) -> None:
        """Store a checkpoint and drop all but the last two."""
        if self.storage is None:
            return
        self.storage.push(saved, f"{self.name}/checkpoint/{saved.name}")
        for old in self._stored()[: -checkpoint.KEPT]:
            self.storage.drop(f"{self.name}/checkpoint/{old}")

    def finish(self) -> None:
        """Store the model."""
        if self.storage is not None:
            self.storage.push(self.folder / "model", f"{self.name}/model")

    def _stored(self) -> list[str]:
        return self.storage.names(f"{self.name}/checkpoint") if self.storage else []


def _step(name: str) -> int:
    return int(name.removeprefix("step-"))

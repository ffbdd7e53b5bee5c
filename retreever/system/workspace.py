"""The workspace: one folder for everything that retreever writes, so that it touches nothing else on a machine.

RETREEVER_STORAGE may name a folder or URI that all machines reach; data, encodings and runs are then kept there too.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retreever.system.storage import Storage

WORKSPACE_VARIABLE = "RETREEVER_WORKSPACE"
STORAGE_VARIABLE = "RETREEVER_STORAGE"


@dataclass(frozen=True)
class Workspace:
    """Paths under one root. They are absolute, because Ray's workers run in folders of their own."""

    root: Path

    @classmethod
    def default(cls) -> "Workspace":
        """The folder named by RETREEVER_WORKSPACE, or `workspace/` in the current folder."""
        return cls.at(Path(os.environ.get(WORKSPACE_VARIABLE, "workspace")))

    @classmethod
    def at(cls, root: Path) -> "Workspace":
        """The workspace at `root`; the folder is created with the first file in it."""
        return cls(Path(root).expanduser().resolve())

    def dataset_folder(self, name: str) -> Path:
        """Folder of a data set in BEIR layout: `name` itself where it is an existing folder, else data/NAME."""
        given = Path(name).expanduser()
        return given.resolve() if given.is_dir() else self.root / "data" / name

    def open_storage(self) -> "Storage | None":
        """The storage named by RETREEVER_STORAGE, with this workspace's folders under the same names; None without it.

        Raises:
            StorageError: no file system knows its URI.
        """
        uri = os.environ.get(STORAGE_VARIABLE)
        if not uri:
            return None
        from retreever.system.storage import Storage  # pyarrow takes a while to import

        return Storage(uri)

    def storage_name(self, folder: Path) -> str:
        """Name in shared storage of a folder of this workspace.

        >>> Workspace.at(Path("/w")).storage_name(Path("/w/runs/best"))
        'runs/best'
        """
        return folder.relative_to(self.root).as_posix()

    @property
    def encodings(self) -> Path:
        """Content-addressed store of encodings."""
        return self.root / "encodings"

    @property
    def exports(self) -> Path:
        """Encoders and trees in the form that runs without torch, one folder each; made anew where they are missing."""
        return self.root / "exports"

    @property
    def runs(self) -> Path:
        """Training runs (checkpoints, curves), one folder a run name."""
        return self.root / "runs"

    @property
    def baselines(self) -> Path:
        """Cache of fitted baselines, so that a second comparison trains nothing."""
        return self.root / "baselines"

    @property
    def sweeps(self) -> Path:
        """Sweeps, one folder a sweep name."""
        return self.root / "sweeps"

    @property
    def comparisons(self) -> Path:
        """Full comparisons with their reports, one folder a data set and protocol."""
        return self.root / "comparisons"

    @property
    def mlflow_artifacts(self) -> Path:
        """Artifact root of the local MLflow store."""
        return self.root / "mlflow" / "artifacts"

    @property
    def mlflow_uri(self) -> str:
        """MLFLOW_TRACKING_URI where it is set, else an absolute sqlite URI in this workspace."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow' / 'mlflow.db'}"

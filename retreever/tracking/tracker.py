"""Runs in MLflow: nested under a parent, logged in batches, found again after an interrupt, ended whatever happens.

Ray's own MLflow helpers neither nest runs nor survive a restart, so this module calls `MlflowClient`. It does not touch
MLflow's global state (active run, tracking URI); many processes may log at once. It does not know what a run is about.
"""

import json
import logging
import math
import os
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from retreever.errors import TrackingError
from retreever.system.files import read_json, write_json
from retreever.system.workspace import Workspace

EXPERIMENT = "retreever"
RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)


class Tracker:
    """One tracking server, one experiment."""

    def __init__(self, uri: str):
        self.uri = uri
        self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    @classmethod
    def of(cls, workspace: Workspace) -> "Tracker":
        """The tracker of a workspace: the server of MLFLOW_TRACKING_URI, or the workspace's sqlite file."""
        if workspace.mlflow_uri.startswith("sqlite:///"):
            Path(workspace.mlflow_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        return cls(workspace.mlflow_uri)

    def get_experiment(self, workspace: Workspace, name: str = EXPERIMENT) -> str:
        """Id of the experiment `name`, created on first use. Call it before workers start: creations may collide."""
        found = self.client.get_experiment_by_name(name)
        if found:
            return found.experiment_id
        local = self.uri.startswith("sqlite:")
        location = workspace.mlflow_artifacts.as_uri() if local else None
        return self.client.create_experiment(name, artifact_location=location)

    def start(
        self,
        experiment: str,
        name: str,
        *,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        parent: str | None = None,
    ) -> str:
        """Start a run and return its id.

        Args:
            params: logged at once; None becomes "null".
            parent: id of the run to nest under.
        """
        own = {MLFLOW_RUN_NAME: name, **(tags or {}), **source_tags()}
        if parent:
            own[MLFLOW_PARENT_RUN_ID] = parent
        run = self.client.create_run(experiment, tags=own)
        values = [Param(k, "null" if v is None else str(v)) for k, v in (params or {}).items()]
        for start in range(0, len(values), 100):
            self.client.log_batch(run.info.run_id, params=values[start : start + 100])
        return run.info.run_id

    def find_or_start(self, record: Path, start: Callable[[], str], *, key: str = "run_id", **notes: Any) -> str:
        """The id of the run that a record names, if the server has it; otherwise start one and write the record.

        Args:
            record: JSON file that holds the run's id under `key`.
            start: starts a run and returns its id.
            notes: what else the record of a new run holds.
        """
        known = read_json(record)[key] if record.is_file() else None
        if self.exists(known):
            return str(known)
        run_id = start()
        write_json(record, {key: run_id, **notes})
        return run_id

    @contextmanager
    def keep_running(self, run_id: str) -> Iterator[None]:
        """Mark a run as RUNNING during the body, and end it as the body ends.

        FINISHED if it returns; FAILED, with the tags `error` and `traceback`, if it raises; KILLED if it is
        interrupted, or if the generator that it belongs to is closed.
        """
        self.resume(run_id)
        try:
            yield
        except Exception as error:
            tags = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
            self.end(run_id, "FAILED", tags)
            raise
        except BaseException:
            self.end(run_id, "KILLED")
            raise
        self.end(run_id)

    def log(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log all metrics of a step in one call; values that are not finite are left out."""
        now = int(time.time() * 1000)
        values = [Metric(k, float(v), now, step) for k, v in metrics.items() if math.isfinite(v)]
        self.client.log_batch(run_id, metrics=values)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags; long values are cut to a length that MLflow accepts."""
        self.client.log_batch(run_id, tags=[RunTag(k, str(v)[:5000]) for k, v in tags.items()])

    def log_dataset(self, run_id: str, name: str, digest: str, source: str, sizes: Mapping[str, int]) -> None:
        """Log a data set as an input of the run: MLflow shows it with the run and finds runs by it."""
        known = Dataset(name, digest[:36], "local", json.dumps({"uri": source}), profile=json.dumps(sizes))
        context = InputTag("mlflow.data.context", "training")
        self.client.log_inputs(run_id, [DatasetInput(known, [context])])

    def log_artifact(self, run_id: str, path: Path, into: str | None = None) -> None:
        """Copy a file or folder to the run's artifacts."""
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), into or path.name)
        else:
            self.client.log_artifact(run_id, str(path), into)

    def resume(self, run_id: str) -> None:
        """Mark a run as running again."""
        self.client.update_run(run_id, status="RUNNING")

    def end(self, run_id: str, status: RunStatus = "FINISHED", tags: Mapping[str, str] | None = None) -> None:
        """Set last tags and end a run; ending twice is harmless."""
        if tags:
            self.tag(run_id, tags)
        self.client.set_terminated(run_id, status)

    def list_children(self, parent: str) -> list[Run]:
        """All runs nested under `parent`."""
        experiment = self.get_run(parent).info.experiment_id
        return list(self.search(experiment, f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}'"))

    def end_orphans(self, parent: str) -> int:
        """End as KILLED every run under `parent` that no process works on any more; return how many there were.

        Those are the runs that are still RUNNING, and the runs of trials that ended while their driver was being
        killed: no driver recorded that end, so such a trial will be resumed.
        """
        orphans = [
            run
            for run in self.list_children(parent)
            if run.info.status == "RUNNING" or run.data.tags.get("status") == "running"
        ]
        for run in orphans:
            self.end(run.info.run_id, "KILLED", {"status": "interrupted"})
        return len(orphans)

    def get_run(self, run_id: str) -> Run:
        """A run by id.

        Raises:
            TrackingError: the server has no such run.
        """
        try:
            return self.client.get_run(run_id)
        except MlflowException as error:
            raise TrackingError(f"run {run_id}: not found at {self.uri} ({error.message})") from None

    def exists(self, run_id: str | None) -> bool:
        """Whether the server has a run with this id."""
        try:
            return run_id is not None and self.get_run(run_id) is not None
        except TrackingError:
            return False

    def search(self, experiment: str, condition: str) -> Iterable[Run]:
        """All runs of an experiment that meet a condition in MLflow's search syntax."""
        token = None
        while True:
            page = self.client.search_runs([experiment], condition, ViewType.ACTIVE_ONLY, 1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return


def source_tags() -> dict[str, str]:
    """The git commit of the code that runs, and its user; empty outside a git repository."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return {
        "mlflow.source.git.commit": found.stdout.strip(),
        "mlflow.user": os.environ.get("USER", "retreever"),
    }

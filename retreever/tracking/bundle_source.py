"""Finds the bundle that an alias, a version, a run or a folder names, and its facts in the registry."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retreever.errors import TrackingError
from retreever.system.workspace import Workspace

if TYPE_CHECKING:  # mlflow takes a second to import, and the service's replicas import this module
    from retreever.tracking.model_registry import ModelVersion
    from retreever.tracking.tracker import Tracker


@dataclass(frozen=True)
class BundleSource:
    """A bundle that may be served.

    Attributes:
        uri: name it was asked for by.
        version: its name in answers: the registered version if there is one, else as `uri`.
        folder: folder of the original.
        run_url: page of its run.
        data: data set it was trained on.
        metrics: metrics measured when it was promoted.
    """

    uri: str
    version: str
    folder: Path
    run_id: str | None = None
    run_url: str | None = None
    data: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Make the values that a copy keeps."""
        return {**vars(self), "folder": str(self.folder)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "BundleSource":
        """Make a source of the values of `to_json`."""
        return cls(**{**values, "folder": Path(values["folder"])})


def resolve_uri(uri: str, workspace: Workspace) -> str:
    """Replace an alias by the URI of its version; return anything else unchanged. Cheap enough for every few seconds.

    Raises:
        TrackingError: no version has that alias.
    """
    from retreever.tracking.model_registry import REGISTERED_MODEL, find_version
    from retreever.tracking.tracker import Tracker

    prefix = f"models:/{REGISTERED_MODEL}@"
    if not uri.startswith(prefix):
        return uri
    alias = uri.removeprefix(prefix)
    found = find_version(Tracker.of(workspace), alias)
    if found is None:
        raise TrackingError(f"{uri}: no version has this alias; train a tree and run `retreever promote`")
    return f"models:/{REGISTERED_MODEL}/{found.version}"


def fetch_source(uri: str, resolved_uri: str, workspace: Workspace) -> BundleSource:
    """Find the bundle of a version, a run or a folder; download it unless it is on this machine.

    Args:
        uri: name it was asked for by.
        resolved_uri: the same, as `resolve_uri` returns it.

    Raises:
        TrackingError: nothing has that name.
    """
    from retreever.tracking.model_registry import REGISTERED_MODEL, locate_model
    from retreever.tracking.tracker import Tracker

    folder = locate_model(resolved_uri, workspace)
    if not resolved_uri.startswith(f"models:/{REGISTERED_MODEL}/"):
        return BundleSource(uri, resolved_uri, folder)
    tracker = Tracker.of(workspace)
    found = tracker.client.get_model_version(REGISTERED_MODEL, resolved_uri.rsplit("/", 1)[1])
    return BundleSource(
        uri,
        resolved_uri,
        folder,
        found.run_id,
        _make_run_url(tracker, found),
        found.tags.get("data"),
        _parse_metrics(found),
    )


def _make_run_url(tracker: "Tracker", found: "ModelVersion") -> str | None:
    if not tracker.uri.startswith(("http://", "https://")) or not found.run_id:
        return None
    experiment = tracker.get_run(found.run_id).info.experiment_id
    return f"{tracker.uri.rstrip('/')}/#/experiments/{experiment}/runs/{found.run_id}"


def _parse_metrics(found: "ModelVersion") -> dict[str, float]:
    metrics = {}
    for name, value in found.tags.items():
        if "/" in name or name in ("bytes_per_document", "latency_ms"):
            with contextlib.suppress(ValueError):
                metrics[name] = float(value)
    return metrics

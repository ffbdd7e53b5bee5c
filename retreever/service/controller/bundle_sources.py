"""From what one names (an alias, a version, a run, a folder) to a bundle on disk and what is known of it."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retreever.errors import TrackingError
from retreever.system.workspace import Workspace
from retreever.tracking.model_registry import MODEL, ModelVersion, locate, version
from retreever.tracking.tracker import Tracker


@dataclass(frozen=True)
class Source:
    """A bundle that may be served.

    Attributes:
        uri: what was asked for.
        version: its name in answers: the registered version where there is one.
        folder: of the original.
        run_url: its run's page.
        metrics: measured when it was promoted.
    """

    uri: str
    version: str
    folder: Path
    run_id: str | None = None
    run_url: str | None = None
    data: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it is kept with a copy."""
        return {**vars(self), "folder": str(self.folder)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Source":
        """The reverse of `to_json`."""
        return cls(**{**values, "folder": Path(values["folder"])})


def pinned(uri: str, workspace: Workspace) -> str:
    """What `uri` means now: an alias's version, anything else as it is; cheap enough to ask every few seconds.

    Raises:
        TrackingError: nothing has that alias.
    """
    alias = _alias(uri)
    if alias is None:
        return uri
    found = version(Tracker.of(workspace), alias)
    if found is None:
        raise TrackingError(f"{uri}: no version has this alias; train a tree and run `retreever promote`")
    return f"models:/{MODEL}/{found.version}"


def _alias(uri: str) -> str | None:
    return uri.removeprefix(f"models:/{MODEL}@") if uri.startswith(f"models:/{MODEL}@") else None


def source(uri: str, name: str, workspace: Workspace) -> Source:
    """The bundle of a version, a run or a folder, fetched where it is elsewhere.

    Args:
        uri: what was asked for.
        name: what it means, as `pinned` says.

    Raises:
        TrackingError: there is no such thing.
    """
    folder = locate(name, workspace)
    if not name.startswith(f"models:/{MODEL}/"):
        return Source(uri, name, folder)
    tracker = Tracker.of(workspace)
    found = tracker.client.get_model_version(MODEL, name.rsplit("/", 1)[1])
    return Source(uri, name, folder, found.run_id, _run_url(tracker, found), found.tags.get("data"), _metrics(found))


def _run_url(tracker: Tracker, found: ModelVersion) -> str | None:
    if not tracker.uri.startswith(("http://", "https://")) or not found.run_id:
        return None
    experiment = tracker.run(found.run_id).info.experiment_id
    return f"{tracker.uri.rstrip('/')}/#/experiments/{experiment}/runs/{found.run_id}"


def _metrics(found: ModelVersion) -> dict[str, float]:
    metrics = {}
    for name, value in found.tags.items():
        if "/" in name or name in ("bytes_per_document", "latency_ms"):
            with contextlib.suppress(ValueError):
                metrics[name] = float(value)
    return metrics

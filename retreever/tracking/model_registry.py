"""From a bundle on disk to a version of the registered model, and from a model URI back to a bundle.

The registry holds every version; the alias `champion` says which one is served, `previous` which one was before it.
What may become champion is decided in `promotion.py`.
"""

import importlib.metadata
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, DataType

from retreever.errors import TrackingError
from retreever.system.files import unseal
from retreever.system.workspace import Workspace
from retreever.tracking.tracker import Tracker

MODEL = "retreever"
CHAMPION = "champion"
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
REQUIREMENTS = ("torch", "transformers", "safetensors", "numpy", "numba", "pydantic", "pandas", "mlflow")


def signature() -> ModelSignature:
    """Texts in; ids and scores out; `k` and `level` as parameters."""
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "query")]),
        outputs=Schema([ColSpec(Array(DataType.string), "ids"), ColSpec(Array(DataType.double), "scores")]),
        params=ParamSchema([ParamSpec("k", DataType.long, 10), ParamSpec("level", DataType.long, 0)]),
    )


def previous(alias: str) -> str:
    """The alias of the version that `alias` pointed at before."""
    return "previous" if alias == CHAMPION else f"{alias}-previous"


def register(bundle: Path, run_id: str, tracker: Tracker, *, notes: Mapping[str, str], alias: str = CHAMPION) -> str:
    """Register a bundle (model, index and documents) as a new version and point `alias` at it.

    What `alias` pointed at is kept as `previous(alias)`.

    Args:
        run_id: the MLflow run that trained it; the version's lineage and the place of its artifacts.
        notes: tags of the version.

    Returns:
        The version's own URI, `models:/retreever/3`.

    Raises:
        BundleError: the bundle is damaged.
    """
    unseal(bundle)
    tracker.resume(run_id)
    try:
        with _pointed_at(tracker), mlflow.start_run(run_id=run_id), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the signature is given, it need not be read off type hints
            info = mlflow.pyfunc.log_model(
                name=MODEL,
                python_model=str(Path(__file__).with_name("served_model.py")),
                artifacts={"bundle": str(bundle)},
                signature=signature(),
                pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in REQUIREMENTS],
                registered_model_name=MODEL,
                tags=dict(notes),
            )
    finally:
        tracker.end(run_id)
    number = str(info.registered_model_version)
    for name, value in notes.items():
        tracker.client.set_model_version_tag(MODEL, number, name, value)
    _point(tracker, alias, number)
    return f"models:/{MODEL}/{number}"


def version(tracker: Tracker, alias: str = CHAMPION) -> ModelVersion | None:
    """The version that an alias points at."""
    try:
        return tracker.client.get_model_version_by_alias(MODEL, alias)
    except MlflowException:
        return None


def _point(tracker: Tracker, alias: str, number: str) -> None:
    """Move an alias and keep where it stood. The old place is noted first: an interrupt between loses nothing."""
    before = version(tracker, alias)
    if before is not None:
        tracker.client.set_registered_model_alias(MODEL, previous(alias), before.version)
    tracker.client.set_registered_model_alias(MODEL, alias, number)


def rollback(tracker: Tracker, alias: str = CHAMPION) -> str:
    """Point `alias` at the version before, whose place the present one takes: a second rollback undoes the first.

    Returns:
        The URI of the version that `alias` points at now.

    Raises:
        TrackingError: there is no version before.
    """
    before = version(tracker, previous(alias))
    if before is None:
        raise TrackingError(f"models:/{MODEL}@{previous(alias)}: there is no version to roll back to")
    _point(tracker, alias, before.version)
    return f"models:/{MODEL}/{before.version}"


def locate(model: str, workspace: Workspace) -> Path:
    """The folder that `model` means: an MLflow URI, a folder's path, or the name of a run (its bundle, else its model).

    Raises:
        TrackingError: there is no such thing.
    """
    if model.startswith(("models:/", "runs:/")):
        return _download(model, Tracker.of(workspace))
    run = workspace.runs / model
    for folder in (Path(model), run / "bundle", run / "model"):
        if (folder / "model.json").is_file():
            return folder
    raise TrackingError(
        f"model {model}: neither an MLflow URI, nor a folder with a model.json, nor a run in {workspace.runs}"
    )


def _download(uri: str, tracker: Tracker) -> Path:
    with _pointed_at(tracker):
        try:
            folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, tracking_uri=tracker.uri))
        except MlflowException as error:
            raise TrackingError(
                f"model {uri}: not found at {tracker.uri} ({error.message}); train one and run `retreever promote`"
            ) from None
    kept = Model.load(folder).flavors["python_function"]["artifacts"]["bundle"]["path"]  # under its folder's own name
    return folder / str(kept)


@contextmanager
def _pointed_at(tracker: Tracker) -> Iterator[None]:
    """MLflow's model calls know no client, only the process's URIs: set them, and set them back.

    MLflow keeps the tracking URI in the environment too, from where our workspace would read it.
    """
    before = os.environ.get(TRACKING_VARIABLE)
    mlflow.set_tracking_uri(tracker.uri)
    mlflow.set_registry_uri(tracker.uri)
    try:
        yield
    finally:
        mlflow.set_registry_uri(None)
        mlflow.set_tracking_uri(before)
        if before is None:
            os.environ.pop(TRACKING_VARIABLE, None)

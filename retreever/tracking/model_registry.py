"""From a bundle on disk to a version of the registered model, and from a model URI back to a bundle.

The registry holds every version. The alias `champion` points at the version that serves, `previous` at the one before.
`promotion.py` decides which version may become champion.
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
from retreever.system.files import verify_sealed_folder
from retreever.system.workspace import Workspace
from retreever.tracking.tracker import Tracker

REGISTERED_MODEL = "retreever"
CHAMPION_ALIAS = "champion"
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
MODEL_REQUIREMENTS = ("torch", "transformers", "safetensors", "numpy", "numba", "pydantic", "pandas", "mlflow")


def build_signature() -> ModelSignature:
    """The signature of a version: texts in, ids and scores out, `k`, `level` and `hybrid` as parameters."""
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "query")]),
        outputs=Schema([ColSpec(Array(DataType.string), "ids"), ColSpec(Array(DataType.double), "scores")]),
        params=ParamSchema(
            [
                ParamSpec("k", DataType.long, 10),
                ParamSpec("level", DataType.long, 0),
                ParamSpec("hybrid", DataType.string, ""),
            ]
        ),
    )


def previous_alias(alias: str) -> str:
    """The alias that keeps the version `alias` pointed at before."""
    return "previous" if alias == CHAMPION_ALIAS else f"{alias}-previous"


def register_bundle(
    bundle: Path, run_id: str, tracker: Tracker, *, tags: Mapping[str, str], alias: str = CHAMPION_ALIAS
) -> str:
    """Register a bundle (model, index and documents) as a new version and point `alias` at it.

    `previous_alias(alias)` then points at the version before.

    Args:
        run_id: the MLflow run that trained it; the version's lineage and the place of its artifacts.
        tags: of the version.

    Returns:
        The version's own URI, `models:/retreever/3`.

    Raises:
        BundleError: the bundle is damaged.
    """
    verify_sealed_folder(bundle)
    try:
        with _use_tracker(tracker), mlflow.start_run(run_id=run_id), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # MLflow asks for type hints, though it is given a signature
            info = mlflow.pyfunc.log_model(
                name=REGISTERED_MODEL,
                python_model=str(Path(__file__).with_name("served_model.py")),
                artifacts={"bundle": str(bundle)},
                signature=build_signature(),
                pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in MODEL_REQUIREMENTS],
                registered_model_name=REGISTERED_MODEL,
                tags=dict(tags),
            )
    finally:
        tracker.end(run_id)  # FINISHED even if MLflow failed: the training did not
    number = str(info.registered_model_version)
    for name, value in tags.items():
        tracker.client.set_model_version_tag(REGISTERED_MODEL, number, name, value)
    _move_alias(tracker, alias, number)
    return f"models:/{REGISTERED_MODEL}/{number}"


def find_version(tracker: Tracker, alias: str = CHAMPION_ALIAS) -> ModelVersion | None:
    """The version that an alias points at; None if there is none."""
    try:
        return tracker.client.get_model_version_by_alias(REGISTERED_MODEL, alias)
    except MlflowException:
        return None


def _move_alias(tracker: Tracker, alias: str, number: str) -> None:
    """Move an alias; the version before is recorded first, so that an interrupt between the two loses nothing."""
    before = find_version(tracker, alias)
    if before is not None:
        tracker.client.set_registered_model_alias(REGISTERED_MODEL, previous_alias(alias), before.version)
    tracker.client.set_registered_model_alias(REGISTERED_MODEL, alias, number)


def roll_back_alias(tracker: Tracker, alias: str = CHAMPION_ALIAS) -> str:
    """Swap `alias` with the version before: a second rollback undoes the first.

    Returns:
        The URI of the version that `alias` points at now.

    Raises:
        TrackingError: there is no version before.
    """
    before = find_version(tracker, previous_alias(alias))
    if before is None:
        raise TrackingError(f"models:/{REGISTERED_MODEL}@{previous_alias(alias)}: there is no version to roll back to")
    _move_alias(tracker, alias, before.version)
    return f"models:/{REGISTERED_MODEL}/{before.version}"


def locate_model(model: str, workspace: Workspace) -> Path:
    """The folder of a model: an MLflow URI, a folder's path, or a run's name (its bundle, else its model).

    Raises:
        TrackingError: nothing of that name.
    """
    if model.startswith(("models:/", "runs:/")):
        return _download_bundle(model, Tracker.of(workspace))
    run = workspace.runs / model
    for folder in (Path(model), run / "bundle", run / "model"):
        if (folder / "model.json").is_file():
            return folder
    raise TrackingError(
        f"model {model}: neither an MLflow URI, nor a folder with a model.json, nor a run in {workspace.runs}"
    )


def _download_bundle(uri: str, tracker: Tracker) -> Path:
    with _use_tracker(tracker):
        try:
            folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, tracking_uri=tracker.uri))
        except MlflowException as error:
            raise TrackingError(
                f"model {uri}: not found at {tracker.uri} ({error.message}); train one and run `retreever promote`"
            ) from None
    path = Model.load(folder).flavors["python_function"]["artifacts"]["bundle"]["path"]  # ends in the bundle's own name
    return folder / str(path)


@contextmanager
def _use_tracker(tracker: Tracker) -> Iterator[None]:
    """Set the process's URIs during the body, since MLflow's model functions take no client.

    MLflow also writes the tracking URI to the environment, where our workspace would read it.
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

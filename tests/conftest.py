"""Before anything is imported: check every annotated shape of the model, and keep caches out of the home folder."""

import os
import tempfile

import jaxtyping
import pytest

CACHE = tempfile.mkdtemp(prefix="retreever-tests-")
for name in ("MPLCONFIGDIR", "HF_HOME", "IR_DATASETS_HOME"):
    os.environ.setdefault(name, CACHE)
os.environ.setdefault("RETREEVER_WORKSPACE", f"{CACHE}/workspace")  # exports of encoders, which all tests share
os.environ |= {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that wait for a busy core spin

jaxtyping.install_import_hook("retreever.model", "beartype.beartype")


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """A workspace and the folder of a bundle in it."""
    from tests.support.bundles import tiny_bundle, tiny_workspace

    folder = tmp_path_factory.mktemp("served")
    workspace = tiny_workspace(folder)
    return workspace, tiny_bundle(folder, workspace)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A workspace with a tiny data set and a tiny encoder."""
    from retreever.data import beir
    from retreever.system import environment
    from retreever.system.workspace import Workspace
    from tests.support import tiny

    place = Workspace.at(tmp_path_factory.mktemp("workspace"))
    tiny.tiny_bert(place.root / "bert")
    beir.write_beir(tiny.tiny_dataset(), place.dataset_folder("tiny"))
    environment.prepare_environment(place)
    return place

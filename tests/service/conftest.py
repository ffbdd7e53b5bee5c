"""A copy of the shared bundle, and the HTTP interface around a copy, in this process."""

import shutil
import warnings

import pytest
from fastapi.testclient import TestClient

with warnings.catch_warnings():  # of Ray's own settings, at its first import
    warnings.filterwarnings("ignore", "Using extra keyword arguments on `Field` is deprecated", DeprecationWarning)
    import ray.serve  # noqa: F401

from tests.support.local_service import TOKEN, local_service


@pytest.fixture
def live(served, tmp_path):
    """A copy of the bundle that a test may change."""
    return shutil.copytree(served[1], tmp_path / "live")


@pytest.fixture(scope="module")
def client(served, tmp_path_factory):
    """A client of the HTTP interface around a copy of the bundle, shared by a module's tests."""
    app, _ = local_service(shutil.copytree(served[1], tmp_path_factory.mktemp("api") / "live"))
    with TestClient(app, raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def bearer():
    return {"authorization": f"Bearer {TOKEN}"}

"""What tests of the cluster start from: a workspace with a tiny data set and a tiny encoder."""

import pytest

from retreever.data import beir
from retreever.system import environment
from retreever.system.workspace import Workspace
from tests.support import tiny


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    place = Workspace.at(tmp_path_factory.mktemp("workspace"))
    tiny.tiny_bert(place.root / "bert")
    beir.write(tiny.tiny_dataset(), place.dataset("tiny"))
    environment.prepare(place)
    return place

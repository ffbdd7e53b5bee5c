"""A whole life with shared storage: another machine finds data, encodings, checkpoints and model there."""

import shutil

import pytest

from retreever.cluster.launch_training import train
from retreever.cluster.train_job import Job
from retreever.cluster.train_worker import reports
from retreever.data import beir
from retreever.data.prepare_dataset import prepare
from retreever.encoding.encoder import Encoder
from retreever.system import environment
from retreever.system.storage import Storage
from retreever.system.workspace import STORAGE, Workspace
from tests.support import tiny

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(params=["memory", "file"])
def storage(request, tmp_path, monkeypatch):
    uri = f"memory://{tmp_path.name}" if request.param == "memory" else f"file://{tmp_path}/shared"
    monkeypatch.setenv(STORAGE, uri)
    return Storage(uri)


def machine(tmp_path, name):
    """A workspace with nothing in it."""
    place = Workspace.at(tmp_path / name)
    environment.prepare(place)
    return place


def test_another_machine_goes_on_from_what_is_stored(tmp_path, storage, monkeypatch):
    first, second, third = (machine(tmp_path, name) for name in ("first", "second", "third"))
    config = tiny.tiny_config(tiny.tiny_bert(tmp_path / "bert"))
    beir.write(tiny.tiny_dataset(), first.dataset("tiny"))
    storage.push(first.dataset("tiny"), "data/tiny")

    running = reports(Job(config.model_dump(mode="json"), str(first.root), str(first.runs / "run")))
    steps = [next(running).step, next(running).step]
    running.close()  # the first machine is lost
    shutil.rmtree(first.root)
    assert storage.names("runs/run/checkpoint") == ["step-00000010", "step-00000020"]

    monkeypatch.setattr(Encoder, "load", lambda *given: pytest.fail("everything is encoded already"))
    job = Job(config.model_dump(mode="json"), str(second.root), str(second.runs / "run"))
    steps += [report.step for report in reports(job)]
    assert steps == [10, 20, 30]
    assert storage.names("runs/run/checkpoint") == ["step-00000020", "step-00000030"]

    result, _ = train(config, third, "run")
    assert [f["step"] for f in result.history] == [10, 20, 30] and (result.model / "model.safetensors").is_file()


def test_a_data_set_is_read_from_a_uri(tmp_path, storage):
    beir.write(tiny.tiny_dataset(), tmp_path / "made")
    storage.push(tmp_path / "made", "sets/made")
    found = prepare("beir", f"{storage.uri}/sets/made", name="tiny", cache=tmp_path / "cache")
    assert found.digest == tiny.tiny_dataset().digest

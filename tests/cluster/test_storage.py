"""Shared storage: another machine finds data, encodings, checkpoints and model there."""

import shutil
from dataclasses import replace

import pytest

from retreever.cluster.launch_training import train_run
from retreever.cluster.train_job import TrainingJob
from retreever.cluster.train_worker import figures_of, run_job
from retreever.data import beir
from retreever.data.prepare_dataset import prepare_dataset
from retreever.encoding.encoder import Encoder
from retreever.evaluation.metrics import METRIC
from retreever.system import environment
from retreever.system.storage import Storage
from retreever.system.workspace import STORAGE_VARIABLE, Workspace
from tests.support import tiny

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(params=["memory", "file"])
def storage(request, tmp_path, monkeypatch):
    uri = f"memory://{tmp_path.name}" if request.param == "memory" else f"file://{tmp_path}/shared"
    monkeypatch.setenv(STORAGE_VARIABLE, uri)
    return Storage(uri)


def machine(tmp_path, name):
    """An empty workspace."""
    place = Workspace.at(tmp_path / name)
    environment.prepare_environment(place)
    return place


def test_another_machine_resumes_from_storage(tmp_path, storage, monkeypatch):
    first, second, third = (machine(tmp_path, name) for name in ("first", "second", "third"))
    config = tiny.tiny_config(tiny.tiny_bert(tmp_path / "bert"))
    beir.write_beir(tiny.tiny_dataset(), first.dataset_folder("tiny"))
    storage.push(first.dataset_folder("tiny"), "data/tiny")

    running = run_job(TrainingJob(config.model_dump(mode="json"), str(first.root), str(first.runs / "run")))
    steps = [next(running).step, next(running).step]
    running.close()  # the first machine is lost
    shutil.rmtree(first.root)
    assert storage.list_folders("runs/run/checkpoint") == ["step-00000010", "step-00000020"]

    monkeypatch.setattr(Encoder, "load", lambda *given: pytest.fail("encoded again"))
    job = TrainingJob(config.model_dump(mode="json"), str(second.root), str(second.runs / "run"))
    steps += [report.step for report in run_job(job)]
    assert steps == [10, 20, 30]
    assert storage.list_folders("runs/run/checkpoint") == ["step-00000020", "step-00000030"]

    result, _ = train_run(config, third, "run")
    assert [f["step"] for f in result.history] == [10, 20, 30] and (result.model / "model.safetensors").is_file()


def test_a_data_set_is_read_from_a_uri(tmp_path, storage):
    beir.write_beir(tiny.tiny_dataset(), tmp_path / "source")
    storage.push(tmp_path / "source", "sets/tiny")
    found = prepare_dataset("beir", f"{storage.uri}/sets/tiny", name="tiny", cache=tmp_path / "cache")
    assert found.digest == tiny.tiny_dataset().digest


def test_another_machine_finds_a_tree_that_was_not_trained(tmp_path, storage):
    first, second = (machine(tmp_path, name) for name in ("first", "second"))
    config = tiny.tiny_config(tiny.tiny_bert(tmp_path / "bert"), train__steps=0)
    storage.push(write_corpus(first), "data/tiny")
    (report,) = run_job(TrainingJob(config.model_dump(mode="json"), str(first.root), str(first.runs / "run")))
    assert METRIC not in report.metrics and METRIC not in figures_of(report) and figures_of(report)["done"]
    result, _ = train_run(config, second, "run")
    assert [f["step"] for f in result.history] == [0] and (result.model / "model.safetensors").is_file()


def write_corpus(place):
    """Write the tiny data set without queries and pairs into a workspace; return its folder."""
    beir.write_beir(replace(tiny.tiny_dataset(), queries=(), qrels={}), place.dataset_folder("tiny"))
    return place.dataset_folder("tiny")

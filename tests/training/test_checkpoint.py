"""Checkpoints: the last two are kept; the one before a damaged one is used; a kill costs one interval at most."""

import pytest
import torch
from safetensors.torch import load_file

from retreever.errors import BundleError
from retreever.system import files
from retreever.training import checkpoint, training_loop
from tests.support import tiny


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny.tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def data(tmp_path_factory, encoder):
    return tiny.encoded(tmp_path_factory.mktemp("store"), tiny.tiny_config(encoder).encoder)


@pytest.fixture
def config(encoder):
    return tiny.tiny_config(encoder, train__steps=40)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stop_after(reports, config, data, folder):
    """Train up to a report and no further."""
    running = training_loop.epochs(config, data, folder)
    for _ in range(reports):
        next(running)
    running.close()


def steps(folder):
    return sorted(path.name for path in (folder / "checkpoint").iterdir())


def last_model(folder):
    return load_file(sorted((folder / "checkpoint").glob("step-*0"))[-1] / "model.safetensors")


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def flip_last_bit(path):
    """Change the last bit of a file."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def test_the_last_two_checkpoints_are_kept(tmp_path, config, data):
    training_loop.fit(config, data, tmp_path)
    assert steps(tmp_path) == ["step-00000030", "step-00000040"]
    assert (
        checkpoint.find_latest_step(tmp_path / "checkpoint") == 40
        and checkpoint.find_latest_step(tmp_path / "nowhere") == -1
    )


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "best/model.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, config, data, name):
    training_loop.fit(config, data, tmp_path / "whole")
    stop_after(3, config, data, tmp_path / "damaged")
    flip_last_bit(tmp_path / "damaged" / "checkpoint" / "step-00000030" / name)
    seen = []
    training_loop.fit(config, data, tmp_path / "damaged", report=seen.append)
    assert [report.step for report in seen] == [30, 40]
    for report in seen:
        (warning,) = [w for w in report.warnings if "damaged" in w]
        assert "step-00000030 set aside, went on from step 20" in warning and f"{name}: checksum differs" in warning
    assert "step-00000030.damaged" in steps(tmp_path / "damaged")
    assert same(last_model(tmp_path / "damaged"), last_model(tmp_path / "whole"))


def test_a_missing_file_is_damage_as_well(tmp_path, config, data):
    stop_after(2, config, data, tmp_path)
    (tmp_path / "checkpoint" / "step-00000020" / "optimizer.safetensors").unlink()
    seen = []
    training_loop.fit(config, data, tmp_path, report=seen.append)
    assert seen[0].step == 20 and "optimizer.safetensors: file is missing" in seen[0].warnings[-1]


def test_where_all_are_damaged_all_are_named(tmp_path, config, data):
    stop_after(2, config, data, tmp_path)
    for step in ("step-00000010", "step-00000020"):
        flip_last_bit(tmp_path / "checkpoint" / step / "model.safetensors")
    with pytest.raises(BundleError, match=r"no checkpoint is whole.*step-00000020.*step-00000010"):
        training_loop.fit(config, data, tmp_path)


def test_a_kill_while_one_is_written_leaves_the_one_before_it(tmp_path, config, data, monkeypatch):
    stop_after(2, config, data, tmp_path)

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "seal_folder", killed)
    monkeypatch.setattr(files, "_remove", lambda path: None)  # a killed process removes nothing
    with pytest.raises(KeyboardInterrupt):
        training_loop.fit(config, data, tmp_path)
    monkeypatch.undo()
    assert len(steps(tmp_path)) == 3  # two whole ones, and an unfinished one under another name
    seen = []
    training_loop.fit(config, data, tmp_path, report=seen.append)
    assert [report.step for report in seen] == [30, 40] and not any("damaged" in w for w in seen[0].warnings)


@pytest.mark.parametrize("step", [3, 13, 20])
def test_a_run_resumes_to_the_bit_from_a_state_saved_between_two_validations(tmp_path, config, data, step):
    whole = training_loop.fit(config, data, tmp_path / "whole")
    written = []

    def stop(path):
        written.append(path.name)
        if path.name == f"step-{step:08d}":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(
            training_loop.epochs(
                config, data, tmp_path / "cut", must_save=lambda done: done == step, on_checkpoint=stop
            )
        )
    assert written[-1] == f"step-{step:08d}"
    cut = training_loop.fit(config, data, tmp_path / "cut")
    assert same(last_model(tmp_path / "cut"), last_model(tmp_path / "whole"))
    assert [f["loss"] for f in cut.history] == pytest.approx([f["loss"] for f in whole.history], rel=1e-6)


def test_every_checkpoint_is_reported_once(tmp_path, config, data):
    written = []
    list(training_loop.epochs(config, data, tmp_path, must_save=lambda done: done == 15, on_checkpoint=written.append))
    assert [path.name for path in written] == [f"step-{step:08d}" for step in (10, 15, 20, 30, 40)]

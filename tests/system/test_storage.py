"""Shared storage: a folder behind pyarrow and an in-memory file system behind fsspec; whole or absent, checked."""

import pytest

from retreever.errors import StorageError
from retreever.system.storage import Storage, download_folder


@pytest.fixture(params=["folder", "file", "memory"])
def storage(request, tmp_path):
    uris = {
        "folder": str(tmp_path / "shared"),
        "file": f"file://{tmp_path}/shared",
        "memory": f"memory://{tmp_path.name}/team",
    }
    return Storage(uris[request.param])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "source" / "sub").mkdir(parents=True)
    (tmp_path / "source" / "weights.bin").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "source" / "sub" / "ids.json").write_text("[]")
    return tmp_path / "source"


def test_a_pushed_folder_can_be_pulled(storage, folder, tmp_path):
    assert not storage.has("runs/one") and storage.list_folders("runs") == []
    assert not storage.pull("runs/one", tmp_path / "back") and not (tmp_path / "back").exists()
    storage.push(folder, "runs/one")
    storage.push(folder, "runs/two")
    assert storage.has("runs/one") and storage.list_folders("runs") == ["one", "two"]
    assert storage.pull("runs/one", tmp_path / "back")
    assert (tmp_path / "back" / "weights.bin").read_bytes() == (folder / "weights.bin").read_bytes()
    assert (tmp_path / "back" / "sub" / "ids.json").read_text() == "[]"
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["sub", "weights.bin"]
    storage.drop("runs/one")
    assert storage.list_folders("runs") == ["two"]


def test_a_second_push_replaces_the_first(storage, folder, tmp_path):
    storage.push(folder, "one")
    (folder / "sub" / "ids.json").unlink()
    (folder / "weights.bin").write_bytes(b"new")
    storage.push(folder, "one")
    storage.pull("one", tmp_path / "back")
    assert [path.name for path in (tmp_path / "back").rglob("*") if path.is_file()] == ["weights.bin"]


def test_an_interrupted_upload_counts_as_absent(storage, folder, tmp_path):
    storage.push(folder, "one")
    storage.files.delete_file(f"{storage.root}/one.files.json")  # the list is written last
    assert not storage.has("one") and not storage.pull("one", tmp_path / "back")


def test_damage_is_named_and_no_folder_remains(storage, folder, tmp_path):
    storage.push(folder, "one")
    with storage.files.open_output_stream(f"{storage.root}/one/weights.bin") as stream:
        stream.write(bytes(25_600))
    with pytest.raises(StorageError, match=r"one: not what was stored: .*weights\.bin: checksum differs"):
        storage.pull("one", tmp_path / "back")
    assert not (tmp_path / "back").exists()
    storage.files.delete_file(f"{storage.root}/one/weights.bin")
    with pytest.raises(StorageError, match=r"weights\.bin: file is missing"):
        storage.pull("one", tmp_path / "back")


def test_a_folder_without_a_list_is_downloaded_as_it_is(storage, folder, tmp_path):
    storage.push(folder, "one")
    download_folder(f"{storage.uri}/one", tmp_path / "back")
    assert (tmp_path / "back" / "sub" / "ids.json").is_file()
    with pytest.raises(StorageError, match="nowhere: there is no such folder"):
        download_folder(f"{storage.uri}/nowhere", tmp_path / "other")


def test_an_unknown_scheme_is_refused():
    with pytest.raises(StorageError, match="gopher://x: no file system for it"):
        Storage("gopher://x")

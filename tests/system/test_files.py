"""Files are whole or absent; damage is named."""

import pytest

from retreever.errors import BundleError
from retreever.system.files import read_json, seal_folder, verify_sealed_folder, write_atomically, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, {"old": True})
    with pytest.raises(RuntimeError), write_atomically(target) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert read_json(target) == {"old": True}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_is_replaced_whole(tmp_path):
    target = tmp_path / "folder"
    for content in ("one", "two"):
        with write_atomically(target) as aside:
            aside.mkdir()
            (aside / content).write_text(content)
    assert [path.name for path in target.iterdir()] == ["two"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.fixture
def sealed(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"12345678")
    (tmp_path / "sub" / "ids.json").write_text("[]")
    seal_folder(tmp_path, {"format": 1})
    return tmp_path


def test_a_sealed_folder_opens(sealed):
    manifest = verify_sealed_folder(sealed)
    assert manifest["format"] == 1
    assert sorted(manifest["files"]) == ["sub/ids.json", "weights.bin"]


def test_a_missing_file_is_named(sealed):
    (sealed / "sub" / "ids.json").unlink()
    with pytest.raises(BundleError, match=r"ids\.json: file is missing"):
        verify_sealed_folder(sealed)


def test_a_cut_file_is_named(sealed):
    (sealed / "weights.bin").write_bytes(b"1234")
    with pytest.raises(BundleError, match=r"weights\.bin: 4 bytes"):
        verify_sealed_folder(sealed, checksums=False)


def test_a_flipped_bit_is_named(sealed):
    (sealed / "weights.bin").write_bytes(b"12345679")
    verify_sealed_folder(sealed, checksums=False)
    with pytest.raises(BundleError, match=r"weights\.bin: checksum differs"):
        verify_sealed_folder(sealed)


def test_broken_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(BundleError, match=r"x\.json: not valid JSON"):
        read_json(tmp_path / "x.json")

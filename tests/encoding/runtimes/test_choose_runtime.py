"""Runtimes agree with torch, the fastest is chosen once a machine, and one that disagrees is refused by name."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from retreever.config import EncoderConfig
from retreever.encoding.encoder import Encoder
from retreever.encoding.encoder_export import EncoderExport, open_encoder_export
from retreever.encoding.runtimes import choose_runtime as runtimes
from retreever.encoding.runtimes.choose_runtime import GRAPH_RUNTIMES, choose_runtime, read_figures
from retreever.errors import EncoderError
from tests.support.tiny import WORDS

TEXTS = [" ".join(WORDS[(3 * i + j) % len(WORDS)] for j in range(length)) for i, length in enumerate((9, 1, 40, 3, 17))]


def config(folder: Path, **changes: object) -> EncoderConfig:
    return EncoderConfig(**{"name": str(folder), "dtype": "float32", "words": 0.5, **changes})


@pytest.fixture
def bert(folders: dict[str, Path], tmp_path: Path) -> tuple[EncoderConfig, EncoderExport]:
    """An encoder with an export of its own, whose figures a test may change."""
    settings = config(folders["bert"])
    return settings, open_encoder_export(settings, tmp_path)


def write_figures(export: EncoderExport, settings: EncoderConfig, **changes: dict[str, object]) -> None:
    """Figures where openvino is fastest, with `changes` by runtime."""
    read_figures(settings, export)
    (file,) = export.folder.glob("runtimes-*.json")
    kept = json.loads(file.read_text())
    for name, cost in (("openvino", 1.0), ("onnx", 2.0), ("torch", 3.0)):
        figures = {"single_ms": cost, "batch_ms": 64 * cost, "cosine": 1.0, "fault": None}
        kept["runtimes"][name] = figures | changes.get(name, {})
    file.write_text(json.dumps(kept))


@pytest.mark.parametrize("runtime", GRAPH_RUNTIMES)
@pytest.mark.parametrize("name", ["bert", "modernbert"])
@pytest.mark.parametrize("settings", [{}, {"pooling": "cls", "normalize": False}], ids=["mean", "cls"])
def test_graphs_compute_what_torch_computes(
    folders: dict[str, Path], runtime: str, name: str, settings: dict[str, object]
) -> None:
    ours, torchs = (Encoder.load(config(folders[name], runtime=own, **settings)) for own in (runtime, "torch"))
    assert (ours.runtime.name, torchs.runtime.name) == (runtime, "torch")
    np.testing.assert_allclose(
        ours.encode_pooled(TEXTS, "query"), torchs.encode_pooled(TEXTS, "query"), atol=1e-5, rtol=1e-4
    )
    (states, mask), (expected, tokens) = (side.encode_tokens(TEXTS, "passage") for side in (ours, torchs))
    np.testing.assert_array_equal(mask, tokens)
    np.testing.assert_allclose(states, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("runtime", [*GRAPH_RUNTIMES, "torch"])
def test_threads_get_the_vectors_of_single_calls(folders: dict[str, Path], runtime: str) -> None:
    encoder = Encoder.load(config(folders["bert"], runtime=runtime), threads=1)
    texts = [" ".join(WORDS[i : i + 1 + i % 9]) for i in range(80)]
    alone = [encoder.encode_pooled([text], "query") for text in texts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda text: encoder.encode_pooled([text], "query"), texts))
    np.testing.assert_allclose(np.concatenate(together), np.concatenate(alone), atol=1e-6)


def test_figures_are_measured_once_a_machine(
    bert: tuple[EncoderConfig, EncoderExport], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, export = bert
    figures = read_figures(settings, export)
    assert set(figures) == {"openvino", "onnx", "torch"}
    assert all(own.single_ms > 0 and own.batch_ms > own.single_ms and own.fault is None for own in figures.values())
    assert min(own.cosine for own in figures.values()) > 0.99999
    monkeypatch.setattr(runtimes, "_measure_runtimes", lambda *given: pytest.fail("measured again"))
    assert read_figures(settings, export) == figures
    monkeypatch.setattr(runtimes, "_measure_runtimes", lambda *given: {})
    monkeypatch.setattr(runtimes, "read_processor", lambda: {"model name": "another processor"})
    assert read_figures(settings, export) == {} and len(list(export.folder.glob("runtimes-*.json"))) == 2


def test_the_fastest_that_agrees_is_chosen(bert: tuple[EncoderConfig, EncoderExport]) -> None:
    settings, export = bert
    write_figures(export, settings)
    assert choose_runtime(settings, export) == "openvino"
    write_figures(export, settings, onnx={"single_ms": 0.5, "batch_ms": 32.0})
    assert choose_runtime(settings, export) == "onnx"
    write_figures(export, settings, openvino={"fault": "no"}, onnx={"fault": "no"})
    assert choose_runtime(settings, export) == "torch"
    assert choose_runtime(settings, export, "cuda") == "torch"


def test_a_runtime_that_disagrees_is_refused_by_name_with_its_cosine(
    bert: tuple[EncoderConfig, EncoderExport], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, export = bert
    monkeypatch.setattr(runtimes, "MIN_RUNTIME_COSINE", 1.1)
    assert choose_runtime(settings, export) == "torch"  # it is the measure
    for name in GRAPH_RUNTIMES:
        asked = settings.model_copy(update={"runtime": name})
        with pytest.raises(EncoderError, match=rf"encoder\.runtime: {name}: .* a cosine of (1\.0|0\.9999)\d*, must be"):
            choose_runtime(asked, export)


def test_an_encoder_without_a_working_graph_is_computed_by_torch(folders: dict[str, Path]) -> None:
    settings = config(folders["longformer"], words=0.0)
    encoder = Encoder.load(settings)
    assert encoder.runtime.name == "torch" and np.isfinite(encoder.encode_pooled(TEXTS, "query")).all()
    with pytest.raises(EncoderError, match=r"encoder\.runtime: onnx"):
        Encoder.load(settings.model_copy(update={"runtime": "onnx"}))


def test_a_model_that_cannot_be_traced_says_why(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retreever.encoding.runtimes.export_graph.ONNX_OPSET", 1)
    settings = config(folders["bert"])
    assert Encoder.load(settings, exports=tmp_path).runtime.name == "torch"
    with pytest.raises(
        EncoderError, match=r"encoder\.runtime: must be auto or torch for .*, which has no graph \(.+\)"
    ):
        Encoder.load(settings.model_copy(update={"runtime": "openvino"}), exports=tmp_path)


def test_damaged_figures_are_measured_anew(bert: tuple[EncoderConfig, EncoderExport]) -> None:
    settings, export = bert
    read_figures(settings, export)
    (file,) = export.folder.glob("runtimes-*.json")
    file.write_text("{")
    assert set(read_figures(settings, export)) == {"openvino", "onnx", "torch"}
    assert json.loads(file.read_text())["runtimes"]

"""Which runtime computes an encoder on this machine: the fastest that agrees with torch in float32.

All are measured once a machine, on one thread, and the figures are kept beside the export. Later processes read them
and import the chosen library alone. A GPU is torch's.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from retreever.config import EncoderConfig
from retreever.encoding.encoder_export import EncoderExport, lock_export
from retreever.encoding.encoder_files import resolve_dtype
from retreever.errors import BundleError, EncoderError
from retreever.system.files import digest_json, read_json, write_json
from retreever.system.precision import read_processor
from retreever.system.threads import PROCESSOR_COUNT

MIN_RUNTIME_COSINE = 0.9999
RUNTIME_PACKAGES = {"openvino": "openvino", "onnx": "onnxruntime", "torch": "torch"}  # by runtime
GRAPH_RUNTIMES = ("openvino", "onnx")
MEASURED_BATCH = 64
MEASURED_TOKENS = 14  # of a text whose encoding is timed
COMPARED_LENGTHS = (3, 4, 5, 6, 8, 10, 12, 14, 17, 21, 26, 32, 48, 64, 96, 128)  # tokens of the texts compared
SINGLE_CALLS, BATCH_CALLS = 15, 3  # timed; the median counts


class Runtime(Protocol):
    """What computes a graph. Several threads may call it at a time."""

    name: str

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Compute the outputs named, from all inputs of the graph."""


class RuntimeFigures(NamedTuple):
    """How a runtime did.

    Attributes:
        single_ms: milliseconds of one text of 14 tokens, on one thread.
        batch_ms: the same of 64 such texts.
        cosine: the smallest of 16 texts to torch in float32.
        fault: why it cannot be used; None where it can.
    """

    single_ms: float
    batch_ms: float
    cosine: float
    fault: str | None

    @property
    def cost(self) -> float:
        """Milliseconds of a text alone, and of one in a batch, together."""
        return self.single_ms + self.batch_ms / MEASURED_BATCH


def open_runtime(config: EncoderConfig, export: EncoderExport, device: str, threads: int | None) -> Runtime:
    """What computes an encoder: the runtime that `config.runtime` names, or the fastest.

    Args:
        device: of torch; anything but `cpu` is computed by torch.
        threads: CPU threads; None: those of torch where it is loaded, else all processors.

    Raises:
        EncoderError: the runtime named is not installed, cannot compute this encoder, or disagrees with torch.
    """
    name = choose_runtime(config, export, device)
    if name == "torch":
        from retreever.encoding.runtimes.torch_runtime import load_torch_encoder

        return load_torch_encoder(export.source, config, resolve_dtype(config), device, threads)
    assert export.graph is not None
    return open_graph(name, export.graph, threads, resolve_dtype(config), export.facts.positions)


def open_graph(
    name: str, graph: Path, threads: int | None, dtype: str = "float32", positions: int | None = None
) -> Runtime:
    """Open a graph in ONNX.

    Args:
        name: `openvino` or `onnx`.
        dtype: of OpenVINO's products; onnxruntime computes in float32.
        positions: tokens that an encoder reads at most; None: no limit, or another graph.
    """
    count = threads or count_runtime_threads()
    if name == "openvino":
        from retreever.encoding.runtimes.openvino_runtime import OpenVinoRuntime

        return OpenVinoRuntime(graph, count, dtype, positions)
    from retreever.encoding.runtimes.onnx_runtime import OnnxRuntime

    return OnnxRuntime(graph, count)


def count_runtime_threads() -> int:
    """CPU threads of a runtime: torch's where it is loaded, else what OMP_NUM_THREADS says, else all processors."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdecimal() and int(told) > 0 else PROCESSOR_COUNT


def choose_runtime(config: EncoderConfig, export: EncoderExport, device: str = "cpu") -> str:
    """Name of the runtime that computes an encoder; the first call on a machine measures all of them.

    Raises:
        EncoderError: the runtime that `config.runtime` names is not installed, cannot compute this encoder, or
            disagrees with torch.
    """
    if device != "cpu" or config.runtime == "torch" or (config.runtime == "auto" and export.graph is None):
        return "torch"
    if export.graph is None:
        raise EncoderError(
            f"encoder.runtime: must be auto or torch for {config.name}, which has no graph ({export.facts.fault}), "
            f"got {config.runtime}"
        )
    figures = read_figures(config, export)
    if config.runtime != "auto":
        fault = figures[config.runtime].fault
        if fault:
            raise EncoderError(f"encoder.runtime: {config.runtime}: {config.name}: {fault}")
        return config.runtime
    usable = {name: found for name, found in figures.items() if found.fault is None}
    return min(usable, key=lambda name: usable[name].cost)


def read_figures(config: EncoderConfig, export: EncoderExport) -> dict[str, RuntimeFigures]:
    """Figures of all runtimes on this machine, by name: as they are kept, or measured now. Torch has no fault."""
    found = find_figures(config, export)
    if found is not None:
        return found
    try:
        with lock_export(export.folder):  # two that measure at a time would slow each other down
            found = find_figures(config, export) or _measure_runtimes(config, export)
            machine, figures = _describe_machine(resolve_dtype(config)), {n: own._asdict() for n, own in found.items()}
            write_json(_name_figures(machine, export), {"machine": machine, "runtimes": figures})
    except OSError:  # exports that cannot be written to: this process has figures of its own
        found = found or _measure_runtimes(config, export)
    return found


def find_figures(config: EncoderConfig, export: EncoderExport) -> dict[str, RuntimeFigures] | None:
    """Figures of all runtimes on this machine as they are kept; None where there are none, or damaged ones."""
    file = _name_figures(_describe_machine(resolve_dtype(config)), export)
    if not file.is_file():
        return None
    try:
        return {name: RuntimeFigures(**found) for name, found in read_json(file)["runtimes"].items()}
    except (BundleError, KeyError, TypeError, AttributeError):
        return None


def _name_figures(machine: Mapping[str, Any], export: EncoderExport) -> Path:
    return export.folder / f"runtimes-{digest_json(machine)}.json"


def _describe_machine(dtype: str) -> dict[str, Any]:
    """What the figures depend on besides the export."""
    versions = {package: _read_version(package) for package in RUNTIME_PACKAGES.values()}
    return {"processor": read_processor().get("model name"), "processors": os.cpu_count(), "dtype": dtype, **versions}


def _read_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _measure_runtimes(config: EncoderConfig, export: EncoderExport) -> dict[str, RuntimeFigures]:
    from retreever.encoding.runtimes.torch_runtime import load_torch_encoder

    dtype, graph = resolve_dtype(config), export.graph
    assert graph is not None
    openers: dict[str, Callable[[], Runtime]] = {
        "openvino": lambda: open_graph("openvino", graph, 1, dtype, export.facts.positions),
        "onnx": lambda: open_graph("onnx", graph, 1),
        "torch": lambda: load_torch_encoder(export.source, config, dtype),
    }
    with _use_one_torch_thread():
        compared = _draw_compared_texts(export)
        reference = _encode_apart(load_torch_encoder(export.source, config, "float32"), compared)
        return {name: _measure_runtime(name, opener, export, compared, reference) for name, opener in openers.items()}


def _measure_runtime(
    name: str,
    opener: Callable[[], Runtime],
    export: EncoderExport,
    compared: Sequence[np.ndarray],
    reference: np.ndarray,
) -> RuntimeFigures:
    try:
        runtime = opener()
        found = _encode_apart(runtime, compared)
        ids = np.resize(compared[COMPARED_LENGTHS.index(MEASURED_TOKENS)], (MEASURED_BATCH, MEASURED_TOKENS))
        single, batch = _time_calls(runtime, ids[:1], SINGLE_CALLS), _time_calls(runtime, ids, BATCH_CALLS)
    except Exception as error:  # of a library that is missing, or of the runtimes: they share no base
        if name == "torch":
            raise
        return RuntimeFigures(0.0, 0.0, 0.0, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(reference, axis=1)
    cosine = float(((found * reference).sum(axis=1) / np.maximum(lengths, 1e-12)).min())
    agrees = name == "torch" or cosine >= MIN_RUNTIME_COSINE  # torch has made what is stored
    fault = f"its vectors agree with torch's to a cosine of {cosine:.5f}, must be at least {MIN_RUNTIME_COSINE}"
    return RuntimeFigures(round(single, 4), round(batch, 4), round(cosine, 7), None if agrees else fault)


def _draw_compared_texts(export: EncoderExport) -> list[np.ndarray]:
    """Token ids of texts of various lengths, int64 (1, length) each: random words between the special tokens."""
    draw, facts = np.random.default_rng(0), export.facts
    tokenizer = export.read_tokenizer()
    empty = tokenizer.tokenize([""], max(COMPARED_LENGTHS), "right", keep_whole=False).ids
    words = np.setdiff1d(np.arange(facts.vocabulary), facts.special)
    before, texts = tokenizer.special[0], []
    for length in COMPARED_LENGTHS:
        body = draw.choice(words, max(1, min(length, facts.positions or length) - len(empty)))
        texts.append(np.concatenate([empty[:before], body, empty[before:]]).astype(np.int64)[None])
    return texts


def _encode_apart(runtime: Runtime, texts: Sequence[np.ndarray]) -> np.ndarray:
    """Pooled vectors of texts, the first alone and the others together with it, so that padding is compared too."""
    ids = np.zeros((len(texts), max(text.shape[1] for text in texts)), np.int64)
    mask = np.zeros(ids.shape, bool)
    for row, text in enumerate(texts):
        ids[row, : text.shape[1]], mask[row, : text.shape[1]] = text[0], True
    (alone,) = runtime.run({"ids": texts[0], "mask": np.ones(texts[0].shape, bool)}, ("pooled",))
    (together,) = runtime.run({"ids": ids, "mask": mask}, ("pooled",))
    return np.concatenate([alone, together[1:]])


def _time_calls(runtime: Runtime, ids: np.ndarray, calls: int) -> float:
    """Median milliseconds of a call, after one that is not timed."""
    given, times = {"ids": ids, "mask": np.ones(ids.shape, bool)}, []
    runtime.run(given, ("pooled",))
    for _ in range(calls):
        start = time.perf_counter()
        runtime.run(given, ("pooled",))
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


@contextmanager
def _use_one_torch_thread() -> Iterator[None]:
    """Have torch compute on one thread, as the other runtimes do while they are measured."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""A graph in ONNX, computed by OpenVINO on a CPU."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TOKEN_DIMENSIONS = 3  # of an output with one vector a token


class OpenVinoRuntime:
    """A compiled graph; several threads may call it at a time.

    Args:
        graph: an ONNX file.
        threads: CPU threads.
        dtype: `bfloat16` or `float32`, in which matrices are multiplied.
        positions: tokens that an encoder reads at most; None: no limit.
    """

    name = "openvino"

    def __init__(self, graph: Path, threads: int, dtype: str, positions: int | None = None):
        self._positions = positions or sys.maxsize
        openvino = _import_openvino()
        precision = openvino.Type.bf16 if dtype == "bfloat16" else openvino.Type.f32
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
        }
        self._compiled = openvino.Core().compile_model(str(graph), "CPU", settings)
        self._idle: list[Any] = []  # requests that no thread uses; a request holds the numbers of one call

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Compute some of the graph's outputs."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        padded, length = self._pad_tokens(inputs)
        request.infer(padded)
        found = [np.array(request.get_tensor(name).data) for name in outputs]  # the request keeps its own memory
        self._idle.append(request)
        return [array[:, :length] if array.ndim == TOKEN_DIMENSIONS else array for array in found]

    def _pad_tokens(self, inputs: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], int | None]:
        """Inputs with masked tokens up to a multiple of 8, of 16 for a text alone; and their length before.

        OpenVINO prepares itself anew whenever the length differs from the last call's: 1.3 of 4 ms for a short query.
        """
        if "ids" not in inputs:
            return dict(inputs), None
        rows, length = inputs["ids"].shape
        more = min(-length % (8 if rows > 1 else 16), max(0, self._positions - length))
        return {name: np.pad(array, ((0, 0), (0, more))) for name, array in inputs.items()}, length


def _import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which reports every import to Google Analytics unless a user opts out.

    OpenVINO does without where the package openvino-telemetry is missing, and the import system tells it so.
    """
    name = "openvino_telemetry"
    if name in sys.modules:
        import openvino

        return openvino
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        del sys.modules[name]
    return openvino

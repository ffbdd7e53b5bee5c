"""A graph in ONNX, computed in float32 by onnxruntime on a CPU."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

FATAL_MESSAGES = 4  # onnxruntime's severity; it prints errors that it raises as well


class OnnxRuntime:
    """A loaded graph; several threads may call it at a time.

    Args:
        graph: an ONNX file.
        threads: CPU threads.
    """

    name = "onnx"

    def __init__(self, graph: Path, threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = FATAL_MESSAGES
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Compute some of the graph's outputs."""
        found: list[np.ndarray] = self._session.run(list(outputs), dict(inputs))
        return found

"""A torch module as a graph in ONNX, which OpenVINO and onnxruntime read."""

import logging
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

ONNX_OPSET = 18
_tracing = threading.Lock()  # torch traces one module at a time


def export_graph(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    axes: Mapping[str, Sequence[str]],
    file: Path,
) -> str | None:
    """Trace a module on example inputs; write its graph, and return None, or say in a line why it cannot be traced.

    Branches that depend on numbers are traced as the example takes them, so compare the graph with the module.

    Args:
        inputs: the module's arguments, in order.
        outputs: names of its results, in order.
        axes: names of the free axes of inputs and outputs, the first ones of each.
        file: ONNX, below 2 GiB.
    """
    with _tracing, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                str(file),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_axes={name: dict(enumerate(free)) for name, free in axes.items()},
                opset_version=ONNX_OPSET,
                dynamo=False,
            )
        except Exception as error:  # of tracing, of single operators, of the file's size: they share no base
            logging.getLogger(__name__).debug("export to %s", file, exc_info=True)
            file.unlink(missing_ok=True)
            return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return None

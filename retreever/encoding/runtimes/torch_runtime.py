"""A torch module, computed by torch on any device; and the encoder as such a module, by `transformers`."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from retreever.config import EncoderConfig
from retreever.errors import EncoderError
from retreever.system.garbage_collection import pause_garbage_collection


class TorchRuntime:
    """A module whose arguments are a graph's inputs and whose results are its outputs.

    Args:
        outputs: names of the results, in order.
        device: a torch device.
        threads: CPU threads of the whole process; None leaves them as they are.
    """

    name = "torch"

    def __init__(self, module: nn.Module, outputs: Sequence[str], device: str = "cpu", threads: int | None = None):
        if threads is not None:
            torch.set_num_threads(threads)
        self.module, self._outputs, self._device = module.eval().requires_grad_(False).to(device), outputs, device

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Compute the outputs, and copy some of them from the device."""
        with torch.inference_mode():
            given = {
                name: torch.from_numpy(np.ascontiguousarray(value)).to(self._device) for name, value in inputs.items()
            }
            found = dict(zip(self._outputs, self.module(**given), strict=True))
        return [found[name].cpu().numpy() for name in outputs]


class PooledEncoder(nn.Module):
    """A transformer that also pools the states of its tokens.

    Args:
        model: a model of `transformers`.
        pooling: `mean` or `cls`.
        normalize: divide pooled vector and states by the pooled vector's length.
    """

    outputs = ("states", "pooled")

    def __init__(self, model: Any, pooling: str, normalize: bool):
        super().__init__()
        self.model, self.pooling, self.normalize = model, pooling, normalize

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Token states float32 (batch, length, dim), and pooled vectors float32 (batch, dim).

        Args:
            ids: token ids, int64 (batch, length).
            mask: true where a token is, bool (batch, length).
        """
        states = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
        pooled = states[:, 0] if self.pooling == "cls" else _pool_mean(states, mask)
        if self.normalize:
            norm = pooled.norm(dim=1, keepdim=True).clamp_min(1e-12)
            pooled, states = pooled / norm, states / norm.unsqueeze(-1)
        return states, pooled


def _pool_mean(states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)


class EncoderSource(NamedTuple):
    """An encoder as `transformers` reads it: model, and tokenizer."""

    model: Any
    tokenizer: Any


def read_encoder(folder: Path, config: EncoderConfig, dtype: str) -> EncoderSource:
    """Read an encoder's files.

    Args:
        dtype: `bfloat16` or `float32`.

    Raises:
        EncoderError: the files cannot be read, or weights are missing.
    """
    with pause_garbage_collection():  # collecting takes a fifth of the time of imports
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model, found = AutoModel.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # the errors of reading settings, weights and vocabulary share no base
        raise EncoderError(f"encoder.name: {config.name}: {folder} does not load: {error}") from error
    lacking = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))  # pooling is ours
    if lacking:
        raise EncoderError(f"encoder.name: {config.name}: {len(lacking)} weights are missing, e.g. {lacking[0]}")
    return EncoderSource(model.eval(), tokenizer)


def load_torch_encoder(
    folder: Path, config: EncoderConfig, dtype: str, device: str = "cpu", threads: int | None = None
) -> TorchRuntime:
    """Read an encoder's files for torch to compute. Raises as `read_encoder` does."""
    module = PooledEncoder(read_encoder(folder, config, dtype).model, config.pooling, config.normalize)
    return TorchRuntime(module, PooledEncoder.outputs, device, threads)

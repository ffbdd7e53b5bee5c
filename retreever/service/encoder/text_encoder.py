"""Texts through a version's encoder and tree: the one part of the service that needs torch and transformers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from retreever.encoding.encoder import Encoder, Kind
from retreever.errors import EncoderError
from retreever.trained_tree import load_model, route_texts


class Encoding:
    """An encoder and a tree, called with texts.

    Args:
        folder: a bundle or a model.
        threads: of torch, in the whole process.
        device: a name of torch.

    Raises:
        BundleError: the model is missing or damaged.
        EncoderError: the encoder it names cannot be had.
    """

    def __init__(self, folder: Path, threads: int, device: str = "cpu"):
        torch.set_num_threads(threads)
        self._tree, self._config = load_model(folder)
        self._tree.to(device)
        self._encoder = Encoder.load(self._config.encoder, device)

    def __call__(self, texts: Sequence[str], kind: Kind) -> tuple[np.ndarray, dict[int, str]]:
        """Node probabilities, float32 (texts, nodes), zeros where there is a fault; and the faults by place."""
        try:
            return route_texts(self._tree, self._config, self._encoder, texts, kind), {}
        except EncoderError as error:
            if len(texts) == 1:
                return np.zeros((1, self._tree.tree.nodes), np.float32), {0: str(error)}
        alone = [self([text], kind) for text in texts]  # only the one at fault is refused
        return np.concatenate([nodes for nodes, _ in alone]), {n: f[0] for n, (_, f) in enumerate(alone) if f}

"""Routes texts through a version's encoder and tree. This is the only module of the service that runs a transformer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from retreever.encoding.encoder import Encoder
from retreever.encoding.tokenized_texts import TextKind
from retreever.errors import EncoderError
from retreever.trained_tree import load_model, route_texts


class TextEncoder:
    """An encoder and a tree, called with texts.

    Args:
        folder: a bundle or a model folder.
        threads: threads of torch, for the whole process.
        device: torch's name of a device.

    Raises:
        BundleError: the model is missing or damaged.
        EncoderError: the encoder that it names does not load.
    """

    def __init__(self, folder: Path, threads: int, device: str = "cpu"):
        torch.set_num_threads(threads)
        self._tree, self._config = load_model(folder)
        self._tree.to(device)
        self._encoder = Encoder.load(self._config.encoder, device)

    def __call__(self, texts: Sequence[str], kind: TextKind) -> tuple[np.ndarray, dict[int, str]]:
        """Route texts.

        Returns:
            Node probabilities, float32 (texts, nodes), zeros for a text with a fault; the faults by place of the text.
        """
        try:
            return route_texts(self._tree, self._config, self._encoder, texts, kind), {}
        except EncoderError as error:
            if len(texts) == 1:
                return np.zeros((1, self._tree.tree.nodes), np.float32), {0: str(error)}
        singles = [self([text], kind) for text in texts]  # one by one, so that only the text at fault is refused
        return np.concatenate([nodes for nodes, _ in singles]), {n: f[0] for n, (_, f) in enumerate(singles) if f}

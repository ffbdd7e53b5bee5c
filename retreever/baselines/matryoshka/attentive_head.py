"""The Matryoshka head with attention pooling of token states before it, so that it sees what cross-attention sees."""

from typing import ClassVar

import torch
from jaxtyping import Float

from retreever.baselines.baseline import train_pairs
from retreever.baselines.matryoshka.matryoshka_head import Matryoshka
from retreever.baselines.matryoshka.prefix_head import AttentionHead, Head, HeadSettings
from retreever.encoding.encoding_store import EncodedDataset
from retreever.errors import DataError
from retreever.system.progress import Track, silent

HEADS = 4


class Attentive(Matryoshka):
    """As `Matryoshka`; the head is linear on four attention-weighted means of a text's token states.

    Its grid has the learning rate alone: a step on tokens costs as much as ten on pooled encodings.
    """

    name = "matryoshka_attention"
    grid: ClassVar[list[HeadSettings]] = [HeadSettings(lr=lr) for lr in (1e-3, 2e-3, 4e-3)]

    def fit(self, data: EncodedDataset, track: Track = silent) -> None:
        """As for `Matryoshka`.

        Raises:
            DataError: token states were not kept, or a split is missing.
        """
        train_pairs(data)
        if not (data.queries.has_tokens and data.passages.has_tokens):
            raise DataError(
                f"data set {data.dataset.name}: {self.name} attends to tokens; encode with encoder.tokens = true"
            )
        super().fit(data, track)

    def _built(self, weight: Float[torch.Tensor, "outputs dim"]) -> Head:
        return AttentionHead(weight, HEADS)

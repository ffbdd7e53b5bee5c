"""Matryoshka head on attention-pooled token states, the same input as cross-attention."""

from itertools import product
from typing import ClassVar

import torch
from jaxtyping import Float

from retreever.baselines.baseline import read_train_pairs
from retreever.baselines.matryoshka.matryoshka_head import ANCHORS, Matryoshka
from retreever.baselines.matryoshka.prefix_head import AttentionHead, Head, HeadSettings
from retreever.encoding.encoding_store import EncodedDataset
from retreever.errors import DataError
from retreever.system.progress import Track, track_silently

ATTENTION_HEADS = 4


class AttentiveMatryoshka(Matryoshka):
    """As `Matryoshka`; the head is linear on four attention-weighted means of a text's token states.

    Its grid varies learning rate and anchor alone, as a step on tokens costs as much as ten on pooled encodings.
    """

    name = "matryoshka_attention"
    grid: ClassVar[list[HeadSettings]] = [
        HeadSettings(lr=lr, anchor=anchor) for lr, anchor in product((1e-3, 2e-3, 4e-3), ANCHORS)
    ]

    def fit(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Fit as `Matryoshka` does.

        Raises:
            DataError: the store has no token states, or a split is missing.
        """
        read_train_pairs(data)
        if not (data.queries.has_tokens and data.passages.has_tokens):
            raise DataError(
                f"data set {data.dataset.name}: {self.name} attends to tokens; encode with encoder.tokens = true"
            )
        super().fit(data, track)

    def _make_head(self, weight: Float[torch.Tensor, "outputs dim"]) -> Head:
        return AttentionHead(weight, ATTENTION_HEADS)

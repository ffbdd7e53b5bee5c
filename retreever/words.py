"""A text's words beside what the encoder makes of them: its own word embeddings, rarer words counting more. Ours.

The last layer says what a text is about and loses much of which words it used, names and identifiers above all. The
first table of the same frozen encoder still has them. How rare a word is needs no corpus: tokenizers number their
tokens from frequent to rare (WordPiece and BPE by when a token was made, Unigram by its probability), so the number
stands for the rank. What the encoder computes with the words is not known here.
"""

from collections.abc import Collection

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

HEAD = 300
"""Token n weighs log(1 + n / HEAD): tenfold rarer adds the same everywhere but among the very first."""


class Words:
    """Word embeddings of texts, weighed by rarity.

    Args:
        table: an encoder's word embeddings, (vocabulary, width).
        special: numbers of the tokens that are no words, e.g. [CLS]; they weigh nothing.
        weight: length of a text's words beside its encoding of length one; above 0.
    """

    def __init__(self, table: Float[Tensor, "vocabulary width"], special: Collection[int], weight: float):
        self._table, self._weight = table, weight
        self._rarity = torch.log1p(torch.arange(len(table), device=table.device) / HEAD)
        self._rarity[list(special)] = 0

    @property
    def width(self) -> int:
        """Width of a word's embedding."""
        return int(self._table.shape[1])

    def beside(
        self,
        states: Float[Tensor, "batch length dim"],
        pooled: Float[Tensor, "batch dim"],
        ids: Int[Tensor, "batch length"],
        mask: Bool[Tensor, "batch length"],
    ) -> tuple[Float[Tensor, "batch length both"], Float[Tensor, "batch both"]]:
        """Token states and pooled vectors with the words of the same texts behind them, as long together as without.

        A word counts by its rarity and by the root of how often the text has it. The mean of a text's words is `weight`
        times as long as its pooled vector; both are then shortened by (1 + weight^2)^-1/2. A text without a word has
        zeros there.
        """
        often = ((ids[:, :, None] == ids[:, None, :]) & mask[:, None, :]).sum(dim=-1).clamp_min(1)
        words = self._table[ids].float() * (self._rarity[ids] * mask / often.sqrt()).unsqueeze(-1)
        mean = words.sum(dim=1) / mask.sum(dim=1, keepdim=True)
        scale = self._weight * pooled.norm(dim=1, keepdim=True) / mean.norm(dim=1, keepdim=True).clamp_min(1e-12)
        shorter = (1 + self._weight**2) ** -0.5
        return (
            torch.cat([states, words * scale[:, None]], dim=-1) * shorter,
            torch.cat([pooled, mean * scale], dim=-1) * shorter,
        )

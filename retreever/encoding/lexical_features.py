"""A text's words beside what the encoder makes of them: its own word embeddings, rarer words counting more. Ours.

The last layer says what a text is about and loses much of which words it used, names and identifiers above all. The
first table of the same frozen encoder still has them, and to read it costs next to nothing: so the words of the whole
text count, also those beyond the tokens that the encoder reads. How rare a word is needs no corpus: tokenizers number
their tokens from frequent to rare (WordPiece and BPE by when a token was made, Unigram by its probability), so the
number stands for the rank. What the encoder computes with the words is not known here.
"""

from collections.abc import Collection

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

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
        self._table, self._weight = table.float(), weight
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
        read: Int[Tensor, "batch length"],
        mask: Bool[Tensor, "batch length"],
        ids: Int[Tensor, " words"],
        lengths: Int[Tensor, " batch"],
    ) -> tuple[Float[Tensor, "batch length both"], Float[Tensor, "batch both"]]:
        """Token states and pooled vectors with the words of the same texts behind them, as long together as without.

        A word counts by its rarity and by the root of how often the text has it. The sum of a text's words is scaled to
        `weight` times the length of its pooled vector; both are then shortened by (1 + weight^2)^-1/2. A text without a
        word has zeros there. The words behind a text's states have the words behind its pooled vector for their mean:
        each state has its own, and an equal share of those that the encoder did not read.

        Args:
            read: token ids that the encoder read, and of which `states` are.
            mask: which of them are tokens.
            ids: token ids of the whole texts, one text after the other.
            lengths: how many of them belong to each text.
        """
        size, texts = len(self._table), torch.arange(len(pooled), device=ids.device)
        kinds, often = torch.unique(texts.repeat_interleave(lengths) * size + ids, return_counts=True)
        starts, worth = torch.searchsorted(kinds, texts * size), self._rarity[kinds % size] * often.sqrt()
        total = embedding_bag(kinds % size, self._table, starts, per_sample_weights=worth, mode="sum")
        found = torch.searchsorted(kinds, texts[:, None] * size + read).clamp_max(len(kinds) - 1)
        own = self._table[read] * (self._rarity[read] * mask / often[found].sqrt()).unsqueeze(-1)
        tokens = mask.sum(dim=1, keepdim=True)
        own += ((total - own.sum(dim=1)) / tokens)[:, None]
        mean = total / tokens
        scale = self._weight * pooled.norm(dim=1, keepdim=True) / mean.norm(dim=1, keepdim=True).clamp_min(1e-12)
        shorter = (1 + self._weight**2) ** -0.5
        return (
            torch.cat([states, own * scale[:, None]], dim=-1) * shorter,
            torch.cat([pooled, mean * scale], dim=-1) * shorter,
        )

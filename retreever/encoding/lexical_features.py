"""Lexical features of a text: the weighted mean of its word embeddings, rarer words weigh more (ours).

The last layer holds the topic of a text and loses much of its wording, names and identifiers above all. The embedding
table of the same frozen encoder still has the words, and reading it is cheap. So all words of a text count, also those
beyond the tokens that the encoder reads. Rarity needs no corpus: tokenizers number their tokens from frequent to rare
(WordPiece and BPE in the order of creation, Unigram by probability), so the number serves as the rank. This module does
not know what the encoder computes from the words.
"""

from collections.abc import Collection

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

RARITY_OFFSET = 300
"""Token n weighs log(1 + n / RARITY_OFFSET): ten times rarer adds a constant, except among the first tokens."""


class LexicalFeatures:
    """Word embeddings of texts, weighted by rarity.

    Args:
        table: an encoder's word embeddings, (vocabulary, width).
        special: ids of special tokens, e.g. [CLS]; their weight is zero.
        weight: length of a text's lexical features, relative to its pooled vector; above 0.
    """

    def __init__(self, table: Float[Tensor, "vocabulary width"], special: Collection[int], weight: float):
        self._table, self._weight = table.float(), weight
        self._rarity = torch.log1p(torch.arange(len(table), device=table.device) / RARITY_OFFSET)
        self._rarity[list(special)] = 0

    @property
    def width(self) -> int:
        """Width of a word's embedding."""
        return int(self._table.shape[1])

    def concatenate(
        self,
        states: Float[Tensor, "batch length dim"],
        pooled: Float[Tensor, "batch dim"],
        read_ids: Int[Tensor, "batch length"],
        mask: Bool[Tensor, "batch length"],
        ids: Int[Tensor, " words"],
        lengths: Int[Tensor, " batch"],
    ) -> tuple[Float[Tensor, "batch length both"], Float[Tensor, "batch both"]]:
        """Concatenate token states and pooled vectors with the lexical features of the same texts.

        A word weighs its rarity times the root of its count in the text. The sum of a text's words is scaled to
        `weight` times the length of its pooled vector. Both are then multiplied by (1 + weight^2)^-1/2, so that the
        length stays as it was. A text without words has zeros there. The features of a text's states have the features
        of its pooled vector as their mean: each state gets its own word, and an equal share of the words that the
        encoder did not read.

        Args:
            read_ids: ids of the tokens that the encoder read, one for each of `states`.
            mask: true where a state belongs to a token.
            ids: token ids of the whole texts, one text after the other.
            lengths: number of tokens of each whole text.
        """
        size, texts = len(self._table), torch.arange(len(pooled), device=ids.device)
        kinds, counts = torch.unique(texts.repeat_interleave(lengths) * size + ids, return_counts=True)
        starts, weights = torch.searchsorted(kinds, texts * size), self._rarity[kinds % size] * counts.sqrt()
        total = embedding_bag(kinds % size, self._table, starts, per_sample_weights=weights, mode="sum")
        found = torch.searchsorted(kinds, texts[:, None] * size + read_ids).clamp_max(len(kinds) - 1)
        own = self._table[read_ids] * (self._rarity[read_ids] * mask / counts[found].sqrt()).unsqueeze(-1)
        tokens = mask.sum(dim=1, keepdim=True)
        own += ((total - own.sum(dim=1)) / tokens)[:, None]
        mean = total / tokens
        scale = self._weight * pooled.norm(dim=1, keepdim=True) / mean.norm(dim=1, keepdim=True).clamp_min(1e-12)
        shorter = (1 + self._weight**2) ** -0.5
        return (
            torch.cat([states, own * scale[:, None]], dim=-1) * shorter,
            torch.cat([pooled, mean * scale], dim=-1) * shorter,
        )

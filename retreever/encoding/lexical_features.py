"""Lexical features of a text: the weighted mean of its word embeddings, rarer words weigh more (ours).

The last layer holds the topic of a text and loses much of its wording, names and identifiers above all. The embedding
table of the same frozen encoder still has the words, and reading it is cheap. So all words of a text count, also those
beyond the tokens that the encoder reads. Rarity needs no corpus: tokenizers number their tokens from frequent to rare
(WordPiece and BPE in the order of creation, Unigram by probability), so the number serves as the rank. This module does
not know what the encoder computes from the words.
"""

from collections.abc import Collection

import numba
import numpy as np
from jaxtyping import Float, Int

from retreever.encoding.tokenized_texts import TokenizedTexts

RARITY_OFFSET = 300
"""Token n weighs log(1 + n / RARITY_OFFSET): ten times rarer adds a constant, except among the first tokens."""


class LexicalFeatures:
    """Word embeddings of texts, weighted by rarity.

    Args:
        table: an encoder's word embeddings, float32 (vocabulary, width); it may be memory-mapped.
        special: ids of special tokens, e.g. [CLS]; their weight is zero.
        weight: length of a text's lexical features, relative to its pooled vector; above 0.
    """

    def __init__(self, table: Float[np.ndarray, "vocabulary width"], special: Collection[int], weight: float):
        self._table, self._weight = np.asarray(table), weight
        self._rarity = np.log1p(np.arange(len(table)) / RARITY_OFFSET).astype(np.float32)
        self._rarity[list(special)] = 0

    @property
    def width(self) -> int:
        """Width of a word's embedding."""
        return int(self._table.shape[1])

    def concatenate(
        self,
        pooled: Float[np.ndarray, "batch dim"],
        states: Float[np.ndarray, "batch length dim"] | None,
        read_ids: Int[np.ndarray, "batch length"],
        tokens: Int[np.ndarray, " batch"],
        whole: TokenizedTexts,
    ) -> tuple[Float[np.ndarray, "batch both"], Float[np.ndarray, "batch length both"] | None]:
        """Concatenate pooled vectors, and token states where given, with the lexical features of the same texts.

        A word weighs its rarity times the root of its count in the text. The sum of a text's words is scaled to
        `weight` times the length of its pooled vector. Both are then multiplied by (1 + weight^2)^-1/2, so that the
        length stays as it was. A text without words has zeros there. The features of a text's states have the features
        of its pooled vector as their mean: each state gets its own word, and an equal share of the words that the
        encoder did not read.

        Args:
            read_ids: ids of the tokens that the encoder read, int64, one for each of `states`; padding follows them.
            tokens: number of tokens that the encoder read of each text.
            whole: the whole texts.
        """
        total = np.zeros((len(pooled), self.width), np.float32)
        _sum_words(whole.ids, whole.offsets, self._table, self._rarity, total)
        length = np.sqrt(np.einsum("bd,bd->b", total, total))
        reach = self._weight * np.sqrt(np.einsum("bd,bd->b", pooled, pooled)) / np.maximum(length, 1e-12)
        shorter = np.float32((1 + self._weight**2) ** -0.5)
        scale = (reach * shorter).astype(np.float32)
        both = np.concatenate([pooled * shorter, total * scale[:, None]], axis=1)
        if states is None:
            return both, None
        own = np.zeros((*read_ids.shape, self.width), np.float32)
        _spread_words(read_ids, tokens, whole.ids, whole.offsets, self._table, self._rarity, total, own)
        own *= (scale * tokens.astype(np.float32))[:, None, None]  # the mean of the states is the sum of the words
        return both, np.concatenate([states * shorter, own], axis=2)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _sum_words(ids, offsets, table, rarity, total):
    """Add every text's word embeddings, each word's once, by rarity and root of its count."""
    for text in range(len(offsets) - 1):
        words = np.sort(ids[offsets[text] : offsets[text + 1]])
        start = 0
        while start < len(words):
            end = start
            while end < len(words) and words[end] == words[start]:
                end += 1
            word = words[start]
            weight = rarity[word] * np.float32(np.sqrt(end - start))
            if weight != 0:
                for column in range(table.shape[1]):
                    total[text, column] += weight * table[word, column]
            start = end


@numba.njit(cache=True, nogil=True, fastmath=True)
def _spread_words(read_ids, tokens, ids, offsets, table, rarity, total, own):
    """Give each token that was read its word's part of `total`, and an equal share of what was not read."""
    width = table.shape[1]
    for text in range(len(offsets) - 1):
        words = np.sort(ids[offsets[text] : offsets[text + 1]])
        rest = total[text].copy()
        count = tokens[text]
        for place in range(count):
            word = read_ids[text, place]
            found = np.searchsorted(words, word, "right") - np.searchsorted(words, word, "left")
            weight = rarity[word] / np.float32(np.sqrt(max(found, 1)))
            for column in range(width):
                own[text, place, column] = weight * table[word, column]
                rest[column] -= own[text, place, column]
        for place in range(count):
            for column in range(width):
                own[text, place, column] += rest[column] / count

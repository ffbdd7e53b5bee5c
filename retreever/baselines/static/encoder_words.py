"""Vectors that an encoder's tokens have without context: rows of its embedding table, or each token encoded alone.

It reads the encoder's files alone. What the vectors are used for is not known here.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
from jaxtyping import Float

from retreever.config import EncoderConfig
from retreever.encoding.encoder import Encoder
from retreever.encoding.text_tokenizer import TextTokenizer
from retreever.encoding.tokenized_texts import TokenizedTexts
from retreever.errors import EncoderError

MAX_TOKENS_ENCODED_ALONE = 1 << 16  # a larger vocabulary takes too long; its table has to serve
MAX_WORDS_OF_TEXT = 1 << 16


class WordVectors(Protocol):
    """Tokens of texts, and vectors of the tokens."""

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Tokenize whole texts, without prefix; special tokens are included."""

    def read_sources(self) -> dict[str, Float[np.ndarray, "vocabulary width"]]:
        """Read the vectors of all tokens, by where they come from; those of special tokens are zero."""


class EncoderWords:
    """Word vectors of a configured encoder, loaded on first use."""

    def __init__(self, config: EncoderConfig):
        self._config = config.model_copy(update={"words": 0.0})

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder.load(self._config)

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        return self._encoder.export.read_tokenizer()

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Tokenize whole texts, without prefix; special tokens are included."""
        return self._tokenizer.tokenize(texts, MAX_WORDS_OF_TEXT, "right", keep_whole=False)

    def read_sources(self) -> dict[str, Float[np.ndarray, "vocabulary width"]]:
        """Read the vectors of all tokens: `table`, and `alone` where there are few enough.

        An encoder whose table is not as wide as its states has no `table`.

        Raises:
            EncoderError: the encoder has neither.
        """
        facts, sources = self._encoder.export.facts, {}
        try:
            with_table = self._config.model_copy(update={"words": 1.0})
            sources["table"] = np.array(Encoder.load(with_table).export.map_words())
        except EncoderError:
            if facts.vocabulary > MAX_TOKENS_ENCODED_ALONE:
                raise
        if facts.vocabulary <= MAX_TOKENS_ENCODED_ALONE:
            sources["alone"] = self._encode_tokens_alone()
        for vectors in sources.values():
            vectors[list(facts.special)] = 0
        return sources

    def _encode_tokens_alone(self) -> Float[np.ndarray, "vocabulary width"]:
        """Pooled vectors of texts that are one token each, between the special ones."""
        encoder, (before, after) = self._encoder, self._tokenizer.special
        example = self.tokenize(["a"]).ids
        count, length = encoder.export.facts.vocabulary, before + 1 + after
        ids = np.empty((count, length), np.int32)
        ids[:, :before], ids[:, before + 1 :] = example[:before], example[len(example) - after :]
        ids[:, before] = np.arange(count)
        vectors = np.empty((count, encoder.dim), np.float32)
        for batch in encoder.encode_batches(TokenizedTexts(ids.ravel(), np.arange(count + 1) * length), states=False):
            vectors[batch.rows] = batch.pooled
        return vectors

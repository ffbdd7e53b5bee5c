"""Texts to token ids by `tokenizers` alone, cut as transformers' fast tokenizers cut.

Every text is tokenized once, whole. Truncation then drops ids between the special tokens, so the tokenizer's own state
never changes and several threads may share it. What an encoder makes of the ids is not known here.
"""

import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from retreever.encoding.tokenized_texts import TokenizedTexts

TEXTS_PER_TOKENIZER_CALL = 4096


class TextTokenizer:
    """A tokenizer, read from its `tokenizer.json`.

    Attributes:
        special: number of special tokens before and after a text's own.
    """

    def __init__(self, file: Path):
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.special = _count_special_tokens(self._tokenizer)

    def tokenize(
        self, texts: Sequence[str], length: int, side: Literal["left", "right"], keep_whole: bool
    ) -> TokenizedTexts:
        """Tokenize texts with special tokens, each cut to `length` tokens.

        Args:
            side: where tokens are cut off.
            keep_whole: keep the ids of the whole texts too, as `untruncated`.
        """
        cut, whole = [], []
        for start in range(0, len(texts), TEXTS_PER_TOKENIZER_CALL):
            part = self._tokenize_whole(texts[start : start + TEXTS_PER_TOKENIZER_CALL])
            cut.append(self._truncate(part, length, side))
            whole.append(part if keep_whole else TokenizedTexts.join([]))
        found = TokenizedTexts.join(cut)
        return TokenizedTexts(found.ids, found.offsets, TokenizedTexts.join(whole) if keep_whole else None)

    def _tokenize_whole(self, texts: Sequence[str]) -> TokenizedTexts:
        own = [encoded.ids for encoded in self._tokenizer.encode_batch_fast(list(texts))]
        offsets = np.cumsum([0, *map(len, own)])
        return TokenizedTexts(np.fromiter(chain.from_iterable(own), np.int32, int(offsets[-1])), offsets)

    def _truncate(self, whole: TokenizedTexts, length: int, side: Literal["left", "right"]) -> TokenizedTexts:
        kept = np.minimum(whole.lengths, length)
        dropped = whole.lengths - kept
        if not dropped.any():
            return whole
        offsets = np.cumsum([0, *kept])
        place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], kept)  # of a token within its text
        before, after = self.special
        gap = np.full(len(kept), before) if side == "left" else kept - after  # where tokens are dropped
        source = np.repeat(whole.offsets[:-1], kept) + place
        return TokenizedTexts(
            whole.ids[source + np.where(place >= np.repeat(gap, kept), np.repeat(dropped, kept), 0)], offsets
        )


def _count_special_tokens(tokenizer: Any) -> tuple[int, int]:
    """Special tokens before and after a text's own; where it has none, one of them comes before."""
    mask = tokenizer.encode("a").special_tokens_mask
    before = next((place for place, special in enumerate(mask) if not special), min(1, len(mask)))
    return before, sum(mask) - before

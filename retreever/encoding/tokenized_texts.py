"""Texts as an encoder reads them: their kind, and their token ids. It knows no tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

TextKind = Literal["query", "passage"]


@dataclass(frozen=True)
class TokenizedTexts:
    """Texts as token ids, one text after the other in the order given.

    Attributes:
        ids: int32 (tokens of all texts,).
        offsets: index of each text's first token, and the number of all tokens, int64 (texts + 1,).
        untruncated: the same texts without truncation, for lexical features; None without these.
    """

    ids: np.ndarray
    offsets: np.ndarray
    untruncated: "TokenizedTexts | None" = None

    @classmethod
    def join(cls, parts: "Sequence[TokenizedTexts]") -> "TokenizedTexts":
        """The texts of all parts, in order, without `untruncated`."""
        lengths = [np.zeros(1, np.int64), *(part.lengths for part in parts)]
        return cls(
            np.concatenate([np.empty(0, np.int32), *(part.ids for part in parts)]), np.cumsum(np.concatenate(lengths))
        )

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, int64 (texts,)."""
        return np.diff(self.offsets)

    def select(self, rows: np.ndarray) -> "TokenizedTexts":
        """Some of the texts, in the order of `rows`."""
        parts = [self.ids[self.offsets[row] : self.offsets[row + 1]] for row in rows.tolist()]
        ids, offsets = np.concatenate([np.empty(0, np.int32), *parts]), np.cumsum([0, *self.lengths[rows]])
        return TokenizedTexts(ids, offsets, self.untruncated and self.untruncated.select(rows))

    def split(self) -> list[list[int]]:
        """Token ids of each text."""
        return [ids.tolist() for ids in np.split(self.ids, self.offsets[1:-1])]

    def pad_rows(self, rows: np.ndarray, pad: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of some texts, int64 (batch, length), with `pad` after a text's last; and their mask, bool."""
        starts, ends = self.offsets[rows, None], self.offsets[rows + 1, None]
        places = starts + np.arange((ends - starts).max())
        mask = places < ends
        out = np.full(mask.shape, pad, np.int64)
        out[mask] = self.ids[places[mask]]
        return out, mask

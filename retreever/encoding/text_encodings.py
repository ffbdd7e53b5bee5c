"""Encodings of a list of texts, by row: read from an entry of the store, encoded anew, or joined from several lists.

It decides how token states are read from disk. It does not know which texts the rows are, nor how an entry is made
(`encoding_shards.py`).
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from retreever.encoding.encoder import Encoder
from retreever.encoding.encoding_shards import POOLED_VECTORS_FILE, TOKEN_OFFSETS_FILE, token_file_name
from retreever.encoding.tokenized_texts import TextKind, TokenizedTexts
from retreever.errors import BundleError, EncoderError
from retreever.system.files import verify_sealed_folder

if TYPE_CHECKING:  # a bundle is searched without torch
    import torch
    from torch import Tensor


class Encodings:
    """Encodings of a list of texts, read from an entry of the store; row i is text i.

    Args:
        folder: an entry of the store.
        verify: compare the checksum of every file; otherwise its size alone.

    Attributes:
        pooled: (texts, dim) float32, memory-mapped.
        lexical_weight: weight of the lexical features in the second half of `dim`; 0: there are none.
        has_tokens: there are token states.

    Raises:
        BundleError: a file is missing or differs from what was written.
    """

    def __init__(self, folder: Path, verify: bool = False):
        try:
            manifest = verify_sealed_folder(folder, checksums=verify)
        except BundleError as error:
            raise BundleError(f"{error}; delete {folder} to have its texts encoded again") from None
        self.folder, self._shard = folder, int(manifest["shard"])
        self.pooled: np.ndarray = np.load(folder / POOLED_VECTORS_FILE, mmap_mode="r")
        self.lexical_weight = float(manifest["known"].get("words", 0))
        self.has_tokens = (folder / TOKEN_OFFSETS_FILE).is_file()
        if self.has_tokens:
            self._offsets: np.ndarray = np.load(folder / TOKEN_OFFSETS_FILE)
        self._shards: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.pooled)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return int(self.pooled.shape[1])

    @functools.cached_property
    def last_layer(self) -> np.ndarray:
        """Pooled vectors of the last layer alone, (texts, width) float32; their cosine is the encoder's own.

        They are `pooled` where there are no lexical features.
        """
        if not self.lexical_weight:
            return self.pooled
        return np.asarray(self.pooled[:, : self.dim // 2]) * np.float32((1 + self.lexical_weight**2) ** 0.5)

    @property
    def frozen_part(self) -> np.ndarray:
        """`last_layer` up to a factor, as a view of `pooled`, so that a large list is not copied."""
        return self.pooled[:, : self.dim // 2] if self.lexical_weight else self.pooled

    @property
    def lengths(self) -> np.ndarray:
        """Tokens kept of each text, int64 (texts,).

        Raises:
            BundleError: tokens were not kept.
        """
        self._require_tokens()
        return np.diff(self._offsets)

    def batch(
        self, rows: np.ndarray, tokens: bool = False, dtype: "torch.dtype | None" = None
    ) -> "tuple[Tensor, Tensor | None]":
        """Encodings of some texts.

        Args:
            rows: int64 (batch,).
            tokens: read the states of all tokens instead of pooled vectors.
            dtype: type of the token states, float32 where it is None; they are stored in bfloat16.

        Returns:
            (batch, dim) and None; or (batch, length, dim), zero where there is no token, and a mask (batch, length).

        Raises:
            BundleError: token states were not kept.
        """
        import torch

        if not tokens:
            return torch.from_numpy(self.pooled[rows]), None
        self._require_tokens()
        states, lengths = self._read_states(rows)
        return states.to(dtype or torch.float32), torch.arange(states.shape[1]) < torch.from_numpy(lengths)[:, None]

    def _read_states(self, rows: np.ndarray) -> "tuple[Tensor, np.ndarray]":
        """Token states bfloat16 (batch, length, dim), and the number of tokens of each text."""
        import torch

        lengths = self.lengths[rows]
        starts = self._offsets[rows] - self._offsets[rows - rows % self._shard]
        bits = np.zeros((len(rows), int(lengths.max(initial=0)), self.dim), np.int16)
        places = zip((rows // self._shard).tolist(), starts.tolist(), lengths.tolist(), strict=True)
        for row, (shard, start, length) in enumerate(places):
            bits[row, :length] = self._map_shard(shard)[start : start + length]
        return torch.from_numpy(bits).view(torch.bfloat16), lengths

    def _map_shard(self, shard: int) -> np.ndarray:
        """Token states of a shard, mapped on first use."""
        if shard not in self._shards:  # int16, which torch can reinterpret; a plain array slices faster
            mapped = np.load(self.folder / token_file_name(shard), mmap_mode="r")
            self._shards[shard] = np.asarray(mapped).view(np.int16)
        return self._shards[shard]

    def _require_tokens(self) -> None:
        if not self.has_tokens:
            raise BundleError(f"{self.folder}: holds pooled encodings only; encode with encoder.tokens = true")


class LiveEncodings(Encodings):
    """Pooled vectors from the store; token states are encoded anew at each read, and rounded like stored ones.

    They serve corpora whose token states would not fit on the disk. The first read loads the encoder.

    Args:
        stored: an entry with pooled vectors.
        encoder: returns the loaded encoder.
    """

    def __init__(self, stored: Encodings, texts: Sequence[str], kind: TextKind, encoder: Callable[[], Encoder]):
        self.folder, self.pooled, self.lexical_weight, self.has_tokens = (
            stored.folder,
            stored.pooled,
            stored.lexical_weight,
            True,
        )
        self._texts, self._kind, self._encoder = texts, kind, encoder

    @functools.cached_property
    def _token_ids(self) -> TokenizedTexts:
        return self._encoder().tokenize(self._texts, self._kind)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens kept of each text, int64 (texts,)."""
        return self._token_ids.lengths

    def _read_states(self, rows: np.ndarray) -> "tuple[Tensor, np.ndarray]":
        import torch

        chosen = self._token_ids.select(rows)
        return torch.from_numpy(self._encoder().encode_states(chosen)[0]).bfloat16(), chosen.lengths


class EmptyEncodings(Encodings):
    """Encodings of no texts: the queries of a corpus alone.

    Args:
        like: encodings of the same encoder, which tell the width.
    """

    def __init__(self, like: Encodings):
        self.folder, self.lexical_weight, self.has_tokens = like.folder, like.lexical_weight, like.has_tokens
        self.pooled = np.empty((0, like.dim), np.float32)
        self._offsets, self._shard = np.zeros(1, np.int64), 1


class JoinedEncodings(Encodings):
    """Encodings of several lists of texts, read as one list; pooled vectors are copied into memory.

    Raises:
        EncoderError: the widths of the lists differ.
    """

    def __init__(self, parts: Sequence[Encodings]):
        widths = sorted({part.dim for part in parts})
        if len(widths) != 1:
            raise EncoderError(f"encodings of {', '.join(map(str, widths))} dimensions cannot be joined")
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])
        self.folder, self.lexical_weight = parts[0].folder, parts[0].lexical_weight
        self.pooled = np.concatenate([part.pooled for part in parts])
        self.has_tokens = all(part.has_tokens for part in parts)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens kept of each text, int64 (texts,)."""
        return np.concatenate([part.lengths for part in self._parts])

    def _read_states(self, rows: np.ndarray) -> "tuple[Tensor, np.ndarray]":
        import torch

        of = np.searchsorted(self._starts, rows, side="right") - 1
        places = [np.flatnonzero(of == i) for i in range(len(self._parts))]
        found = [
            part._read_states(rows[own] - self._starts[i])
            for i, (part, own) in enumerate(zip(self._parts, places, strict=True))
        ]
        lengths = np.zeros(len(rows), np.int64)
        longest = max(states.shape[1] for states, _ in found)
        joined = torch.zeros(len(rows), longest, self.dim, dtype=torch.bfloat16)
        for own, (states, known) in zip(places, found, strict=True):
            joined[own, : states.shape[1]], lengths[own] = states, known
        return joined, lengths

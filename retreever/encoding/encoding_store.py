"""The store of encodings: memory-mapped, named by what they depend on, never half-written.

An entry is a folder `KEY/` with `pooled.npy` (float32) and a manifest with checksums; where tokens are kept, also with
`tokens-00000.npy`, ... (bf16 bits of all token states of a shard's texts, one text after the other) and `offsets.npy`
(where each text begins). The key is a digest of texts, encoder and settings, so a second call with the same of them
encodes nothing, in whichever process. How an entry is made: `shards.py`.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from retreever.config import Config, EncoderConfig
from retreever.data import beir
from retreever.data.dataset import RetrievalDataset
from retreever.data.join_datasets import PLUS, join
from retreever.encoding.encoder import Encoder, Kind, Tokenized, identity
from retreever.encoding.encoding_shards import OFFSETS, POOLED, Making, encode_shard, token_file
from retreever.errors import BundleError, EncoderError
from retreever.system.files import digest, unseal
from retreever.system.progress import Track, silent
from retreever.system.workspace import Workspace

if TYPE_CHECKING:
    from retreever.system.storage import Storage

FORMAT = 2


class Encodings:
    """Encodings of a list of texts, read from an entry of the store; row i is text i.

    Args:
        verify: read every file and compare its checksum; otherwise its size alone.

    Attributes:
        pooled: (texts, dim) float32, memory-mapped.
        words: weight of the words beside the last layer, in the second half of `dim`; 0: there are none.
        has_tokens: whether there are token states.

    Raises:
        BundleError: a file is missing or not what was written.
    """

    def __init__(self, folder: Path, verify: bool = False):
        try:
            manifest = unseal(folder, checksums=verify)
        except BundleError as error:
            raise BundleError(f"{error}; delete {folder} to have its texts encoded again") from None
        self.folder, self._shard = folder, int(manifest["shard"])
        self.pooled: np.ndarray = np.load(folder / POOLED, mmap_mode="r")
        self.words = float(manifest["known"].get("words", 0))
        self.has_tokens = (folder / OFFSETS).is_file()
        if self.has_tokens:
            self._offsets: np.ndarray = np.load(folder / OFFSETS)
        self._shards: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.pooled)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return int(self.pooled.shape[1])

    @functools.cached_property
    def last(self) -> np.ndarray:
        """Pooled vectors of the last layer alone, whose cosine is the encoder's own: `pooled` where there are no words.

        (texts, width) float32.
        """
        if not self.words:
            return self.pooled
        return np.asarray(self.pooled[:, : self.dim // 2]) * np.float32((1 + self.words**2) ** 0.5)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens kept of each text, int64 (texts,).

        Raises:
            BundleError: tokens were not kept.
        """
        self._need_tokens()
        return np.diff(self._offsets)

    def batch(
        self, rows: np.ndarray, tokens: bool = False, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor | None]:
        """Encodings of some texts.

        Args:
            rows: int64 (batch,).
            tokens: states of all tokens instead of pooled vectors.
            dtype: of token states; bfloat16 is as they are stored.

        Returns:
            (batch, dim) and None; or (batch, length, dim), zero where there is no token, and a mask (batch, length).

        Raises:
            BundleError: tokens are wanted and were not kept.
        """
        if not tokens:
            return torch.from_numpy(self.pooled[rows]), None
        self._need_tokens()
        states, lengths = self._states(rows)
        return states.to(dtype), torch.arange(states.shape[1]) < torch.from_numpy(lengths)[:, None]

    def _states(self, rows: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Token states bfloat16 (batch, length, dim), and the number of tokens of each text."""
        lengths = self.lengths[rows]
        starts = self._offsets[rows] - self._offsets[rows - rows % self._shard]
        bits = np.zeros((len(rows), int(lengths.max(initial=0)), self.dim), np.int16)
        places = zip((rows // self._shard).tolist(), starts.tolist(), lengths.tolist(), strict=True)
        for row, (shard, start, length) in enumerate(places):
            bits[row, :length] = self._bits(shard)[start : start + length]
        return torch.from_numpy(bits).view(torch.bfloat16), lengths

    def _bits(self, shard: int) -> np.ndarray:
        """Token states of a shard, mapped when first asked for."""
        if shard not in self._shards:  # torch takes int16 for bits; a plain array is sliced faster than a memmap
            mapped = np.load(self.folder / token_file(shard), mmap_mode="r")
            self._shards[shard] = np.asarray(mapped).view(np.int16)
        return self._shards[shard]

    def _need_tokens(self) -> None:
        if not self.has_tokens:
            raise BundleError(f"{self.folder}: holds pooled encodings only; encode with encoder.tokens = true")


class LiveEncodings(Encodings):
    """Pooled vectors from the store; token states encoded anew whenever they are asked for, and rounded as stored ones.

    For corpora whose token store would be too large. The encoder is loaded when the first states are asked for.
    """

    def __init__(self, stored: Encodings, texts: Sequence[str], kind: Kind, encoder: Callable[[], Encoder]):
        self.folder, self.pooled, self.words, self.has_tokens = stored.folder, stored.pooled, stored.words, True
        self._texts, self._kind, self._encoder = texts, kind, encoder

    @functools.cached_property
    def _tokenized(self) -> Tokenized:
        return self._encoder().tokenize(self._texts, self._kind)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens kept of each text, int64 (texts,)."""
        return self._tokenized.lengths

    def _states(self, rows: np.ndarray) -> tuple[Tensor, np.ndarray]:
        chosen = self._tokenized.of(rows)
        return self._encoder().states(chosen)[0].bfloat16(), chosen.lengths


class Joined(Encodings):
    """Encodings of several lists of texts, read as one list; pooled vectors are copied together into memory.

    Raises:
        EncoderError: they are not of one width.
    """

    def __init__(self, parts: Sequence[Encodings]):
        widths = sorted({part.dim for part in parts})
        if len(widths) != 1:
            raise EncoderError(f"encodings of {', '.join(map(str, widths))} dimensions do not go together")
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)])
        self.folder, self.words = parts[0].folder, parts[0].words
        self.pooled = np.concatenate([part.pooled for part in parts])
        self.has_tokens = all(part.has_tokens for part in parts)

    @property
    def lengths(self) -> np.ndarray:
        """As of `Encodings`."""
        return np.concatenate([part.lengths for part in self._parts])

    def _states(self, rows: np.ndarray) -> tuple[Tensor, np.ndarray]:
        of = np.searchsorted(self._starts, rows, side="right") - 1
        places = [np.flatnonzero(of == i) for i in range(len(self._parts))]
        found = [
            part._states(rows[own] - self._starts[i])
            for i, (part, own) in enumerate(zip(self._parts, places, strict=True))
        ]
        lengths = np.zeros(len(rows), np.int64)
        longest = max(states.shape[1] for states, _ in found)
        joined = torch.zeros(len(rows), longest, self.dim, dtype=torch.bfloat16, device=found[0][0].device)
        for own, (states, known) in zip(places, found, strict=True):
            joined[own, : states.shape[1]], lengths[own] = states, known
        return joined, lengths


@dataclass(frozen=True)
class EncodedDataset:
    """A data set with the encodings of its queries and passages, row by row."""

    dataset: RetrievalDataset
    queries: Encodings
    passages: Encodings

    @property
    def dim(self) -> int:
        """Width of the encodings."""
        return self.passages.dim


def open_dataset(
    config: Config, workspace: Workspace, track: Track = silent, *, verify: bool = False
) -> EncodedDataset:
    """The data set of a configuration with its encodings; texts that are not in the store yet are encoded.

    Several names with a plus between them are read as one data set, each from its own entries of the store.

    Args:
        verify: compare the checksums of stored encodings.
    """
    parts = [
        encode_dataset(dataset, config.encoding, workspace.encodings, track, storage=workspace.storage(), verify=verify)
        for dataset in read_datasets(config, workspace)
    ]
    if len(parts) == 1:
        return parts[0]
    return EncodedDataset(
        join([part.dataset for part in parts]),
        Joined([part.queries for part in parts]),
        Joined([part.passages for part in parts]),
    )


def read_datasets(config: Config, workspace: Workspace) -> list[RetrievalDataset]:
    """The data sets that a configuration names, fetched from shared storage where this machine does not have them."""
    storage, found = workspace.storage(), []
    for name in _names(config.data.name):
        folder = workspace.dataset(name)
        if storage and not folder.is_dir():
            storage.pull(f"data/{name}", folder)
        found.append(beir.read(folder, config.data.on_bad))
    return found


def _names(name: str) -> list[str]:
    """The data sets that a name stands for; an existing folder is one, whatever it is called."""
    return [name] if Path(name).expanduser().is_dir() else name.split(PLUS)


def encode_dataset(
    dataset: RetrievalDataset,
    config: EncoderConfig,
    store: Path,
    track: Track = silent,
    *,
    storage: "Storage | None" = None,
    verify: bool = False,
) -> EncodedDataset:
    """Encodings of a data set's queries and passages; the encoder is loaded only where one is missing.

    Args:
        storage: where entries are looked for before they are made, and kept once they are.
    """
    encoder = functools.cache(lambda: Encoder.load(config, "cuda" if torch.cuda.is_available() else "cpu"))

    def opened(texts: Sequence[str], kind: Kind) -> Encodings:
        found = _stored(texts, kind, config, store, encoder, track, storage, verify)
        return LiveEncodings(found, texts, kind, encoder) if config.live else found

    passages, queries = opened(dataset.passage_texts(), "passage"), opened(dataset.query_texts(), "query")
    return EncodedDataset(dataset, queries, passages)


def encode_texts(texts: Sequence[str], kind: Kind, encoder: Encoder, store: Path, track: Track = silent) -> Encodings:
    """Encodings of `texts`, from the store or by `encoder`.

    Raises:
        EncoderError: there are no texts.
    """
    return _stored(texts, kind, encoder.config, store, lambda: encoder, track)


def makings(
    texts: Sequence[str], kind: Kind, config: EncoderConfig, store: Path, storage: "Storage | None" = None
) -> tuple[Making, Path | None]:
    """The entry that the encodings of `texts` have or would have, and where it lies, or one that serves as well.

    Raises:
        EncoderError: there are no texts.
    """
    if not len(texts):
        raise EncoderError(f"{kind} texts: there are none to encode")
    known = {"texts": _digest(texts), "kind": kind, "format": FORMAT, **identity(config, kind)}
    tokens = bool(config.tokens) and not config.live
    folders = {kept: store / digest({**known, "tokens": kept}) for kept in (True, False)}
    making = Making(folders[tokens], texts, kind, known, tokens)
    for folder in [folders[True]] if tokens else [folders[True], folders[False]]:
        if folder.is_dir() or (storage and storage.pull(f"encodings/{folder.name}", folder)):
            return making, folder
    return making, None


def published(making: Making, storage: "Storage | None" = None) -> Path:
    """Publish an entry whose shards are all there, on this machine and in shared storage; where it lies."""
    making.publish()
    if storage and not storage.has(f"encodings/{making.folder.name}"):
        storage.push(making.folder, f"encodings/{making.folder.name}")
    return making.folder


def _stored(
    texts: Sequence[str],
    kind: Kind,
    config: EncoderConfig,
    store: Path,
    encoder: Callable[[], Encoder],
    track: Track,
    storage: "Storage | None" = None,
    verify: bool = False,
) -> Encodings:
    making, found = makings(texts, kind, config, store, storage)
    if found:
        return Encodings(found, verify)
    missing = making.missing()
    total = sum(len(making.texts_of(number)) for number in missing)
    try:
        for _ in track(_encoded(making, missing, encoder()), f"encoding {kind} texts", total=total):
            pass
        published(making, storage)
    except FileNotFoundError:  # another process has published the entry and tidied the shards away
        if not making.folder.is_dir():
            raise
    return Encodings(making.folder)


def _encoded(making: Making, missing: list[int], encoder: Encoder) -> Iterator[int]:
    """Write the missing shards, yielding once for every text encoded."""
    for number in missing:
        yield from encode_shard(making.texts_of(number), making.kind, encoder, making.shard(number), making.tokens)


def _digest(texts: Sequence[str]) -> str:
    """Digest of a list of texts in which no border between two of them can be moved unnoticed."""
    hashed = hashlib.sha256()
    for text in texts:
        raw = text.encode()
        hashed.update(len(raw).to_bytes(8, "little"))
        hashed.update(raw)
    return hashed.hexdigest()

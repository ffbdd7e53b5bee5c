"""The store of encodings: memory-mapped, named by what they depend on, never half-written.

An entry is a folder `KEY/` with `pooled.npy` (float32) and a manifest; where tokens are kept, also with `tokens.npy`
(bf16 bits of all token states, one text after the other) and `offsets.npy` (where each text begins). The key is a
digest of texts, encoder and settings, so a second call with the same of them encodes nothing, in whichever process.
"""

import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from retreever.config import Config, EncoderConfig
from retreever.data import beir
from retreever.data.dataset import RetrievalDataset
from retreever.data.join import PLUS, join
from retreever.encoder import Encoded, Encoder, Kind, Tokenized, identity
from retreever.errors import BundleError, EncoderError
from retreever.files import digest, seal, unseal
from retreever.progress import Track, silent
from retreever.workspace import Workspace

FORMAT = 1
POOLED, TOKENS, OFFSETS = "pooled.npy", "tokens.npy", "offsets.npy"


class Encodings:
    """Encodings of a list of texts, read from an entry of the store; row i is text i.

    Attributes:
        pooled: (texts, dim) float32, memory-mapped.
        has_tokens: whether token states were kept.

    Raises:
        BundleError: a file is missing or of another size than when it was written.
    """

    def __init__(self, folder: Path):
        try:
            unseal(folder, checksums=False)
        except BundleError as error:
            raise BundleError(f"{error}; delete {folder} to have its texts encoded again") from None
        self.folder = folder
        self.pooled: np.ndarray = np.load(folder / POOLED, mmap_mode="r")
        self.has_tokens = (folder / TOKENS).is_file()
        if self.has_tokens:  # torch takes int16 for bits; a plain array is sliced faster than a memmap
            self._bits = np.asarray(np.load(folder / TOKENS, mmap_mode="r")).view(np.int16)
            self._offsets = np.load(folder / OFFSETS)

    def __len__(self) -> int:
        return len(self.pooled)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return int(self.pooled.shape[1])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens kept of each text, int64 (texts,).

        Raises:
            BundleError: tokens were not kept.
        """
        self._need_tokens()
        return np.diff(self._offsets)

    def batch(self, rows: np.ndarray, tokens: bool = False) -> tuple[Tensor, Tensor | None]:
        """Encodings of some texts.

        Args:
            rows: int64 (batch,).
            tokens: states of all tokens instead of pooled vectors.

        Returns:
            (batch, dim) and None; or (batch, length, dim), zero where there is no token, and a mask (batch, length).

        Raises:
            BundleError: tokens are wanted and were not kept.
        """
        if not tokens:
            return torch.from_numpy(self.pooled[rows]), None
        self._need_tokens()
        starts, lengths = self._offsets[rows], self._offsets[rows + 1] - self._offsets[rows]
        bits = np.zeros((len(rows), int(lengths.max(initial=0)), self.dim), np.int16)
        for row, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            bits[row, :length] = self._bits[start : start + length]
        mask = torch.arange(bits.shape[1]) < torch.from_numpy(lengths)[:, None]
        return torch.from_numpy(bits).view(torch.bfloat16).float(), mask

    def _need_tokens(self) -> None:
        if not self.has_tokens:
            raise BundleError(f"{self.folder}: holds pooled encodings only; encode with encoder.tokens = true")


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
        self.folder = parts[0].folder
        self.pooled = np.concatenate([part.pooled for part in parts])
        self.has_tokens = all(part.has_tokens for part in parts)

    @property
    def lengths(self) -> np.ndarray:
        """As of `Encodings`."""
        return np.concatenate([part.lengths for part in self._parts])

    def batch(self, rows: np.ndarray, tokens: bool = False) -> tuple[Tensor, Tensor | None]:
        """As of `Encodings`."""
        if not tokens:
            return super().batch(rows)
        of = np.searchsorted(self._starts, rows, side="right") - 1
        found = []
        for i, part in enumerate(self._parts):
            places = np.flatnonzero(of == i)
            found.append((places, *part.batch(rows[places] - self._starts[i], True)))
        longest = max(x.shape[1] for _, x, _ in found)
        states, mask = torch.zeros(len(rows), longest, self.dim), torch.zeros(len(rows), longest, dtype=torch.bool)
        for places, x, known in found:
            states[places, : x.shape[1]], mask[places, : x.shape[1]] = x, known
        return states, mask


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


def open_dataset(config: Config, workspace: Workspace, track: Track = silent) -> EncodedDataset:
    """The data set of a configuration with its encodings; texts that are not in the store yet are encoded.

    Several names with a plus between them are read as one data set, each from its own entries of the store.
    """
    folders = [workspace.dataset(name) for name in _names(config.data.name)]
    parts = [
        encode_dataset(beir.read(folder, config.data.on_bad), config.encoder, workspace.encodings, track)
        for folder in folders
    ]
    if len(parts) == 1:
        return parts[0]
    return EncodedDataset(
        join([part.dataset for part in parts]),
        Joined([part.queries for part in parts]),
        Joined([part.passages for part in parts]),
    )


def _names(name: str) -> list[str]:
    """The data sets that a name stands for; an existing folder is one, whatever it is called."""
    return [name] if Path(name).expanduser().is_dir() else name.split(PLUS)


def encode_dataset(
    dataset: RetrievalDataset, config: EncoderConfig, store: Path, track: Track = silent
) -> EncodedDataset:
    """Encodings of a data set's queries and passages; the encoder is loaded only where one is missing."""
    loaded: list[Encoder] = []

    def encoder() -> Encoder:
        if not loaded:
            loaded.append(Encoder.load(config, "cuda" if torch.cuda.is_available() else "cpu"))
        return loaded[0]

    passages = _stored(dataset.passage_texts(), "passage", config, store, encoder, track)
    queries = _stored(dataset.query_texts(), "query", config, store, encoder, track)
    return EncodedDataset(dataset, queries, passages)


def encode_texts(texts: Sequence[str], kind: Kind, encoder: Encoder, store: Path, track: Track = silent) -> Encodings:
    """Encodings of `texts`, from the store or by `encoder`.

    Raises:
        EncoderError: there are no texts.
    """
    return _stored(texts, kind, encoder.config, store, lambda: encoder, track)


def _stored(
    texts: Sequence[str], kind: Kind, config: EncoderConfig, store: Path, encoder: Callable[[], Encoder], track: Track
) -> Encodings:
    if not len(texts):
        raise EncoderError(f"{kind} texts: there are none to encode")
    known = {"texts": _digest(texts), "kind": kind, "format": FORMAT, **identity(config, kind)}
    folders = [store / digest({**known, "tokens": tokens}) for tokens in (True, False)]
    for folder in folders[:1] if config.tokens else folders:
        if folder.is_dir():
            return Encodings(folder)
    folder = folders[0] if config.tokens else folders[1]
    with _published(folder) as aside:
        _write(texts, kind, encoder(), aside, config.tokens, track)
        seal(aside, {"known": known, "count": len(texts)})
    return Encodings(folder)


@contextmanager
def _published(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill beside `folder`; it gets that name when it is complete.

    Where another process was first, its entry stays: it is as good, and somebody may be reading it.
    """
    aside = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.part"
    aside.mkdir(parents=True)
    try:
        yield aside
        try:
            aside.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write(texts: Sequence[str], kind: Kind, encoder: Encoder, folder: Path, tokens: bool, track: Track) -> None:
    """Encode into memory-mapped files; memory holds the token ids and one batch."""
    tokenized = encoder.tokenize(texts, kind)
    pooled = np.lib.format.open_memmap(folder / POOLED, "w+", np.float32, (len(texts), encoder.dim))
    states = _token_file(folder, tokenized, encoder.dim) if tokens else None
    for encoded in encoder.batches(tokenized, track, f"encoding {len(texts):,} texts ({kind}), batches"):
        pooled[encoded.rows] = encoded.pooled.cpu().numpy()
        if states is not None:
            _write_states(encoded, states, tokenized.offsets)
    pooled.flush()
    if states is not None:
        states.flush()


def _token_file(folder: Path, tokenized: Tokenized, dim: int) -> np.memmap:
    np.save(folder / OFFSETS, tokenized.offsets)
    return np.lib.format.open_memmap(folder / TOKENS, "w+", np.uint16, (int(tokenized.offsets[-1]), dim))


def _write_states(encoded: Encoded, states: np.ndarray, offsets: np.ndarray) -> None:
    bits = encoded.states.bfloat16().view(torch.int16).cpu().numpy().view(np.uint16)
    for own, start, end in zip(bits, offsets[encoded.rows], offsets[encoded.rows + 1], strict=True):
        states[start:end] = own[: end - start]


def _digest(texts: Sequence[str]) -> str:
    """Digest of a list of texts in which no border between two of them can be moved unnoticed."""
    hashed = hashlib.sha256()
    for text in texts:
        raw = text.encode()
        hashed.update(len(raw).to_bytes(8, "little"))
        hashed.update(raw)
    return hashed.hexdigest()

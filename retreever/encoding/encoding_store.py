"""The store of encodings: entries named by all that they depend on, memory-mapped, never half-written.

An entry is a folder `KEY/` with `pooled.npy` (float32) and a manifest with checksums. Where tokens are kept, it also
holds `tokens-00000.npy`, ... (bfloat16 bits of all token states of a shard's texts, one text after the other) and
`offsets.npy` (index of each text's first state). The key is a digest of texts, encoder and settings, so a second call
with the same three encodes nothing, in any process. `encoding_shards.py` writes an entry, `text_encodings.py` reads it.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retreever.config import Config, EncoderConfig
from retreever.data import beir
from retreever.data.dataset import RetrievalDataset
from retreever.data.join_datasets import DATASET_NAME_SEPARATOR, join_datasets
from retreever.encoding.encoder import Encoder
from retreever.encoding.encoder_files import describe_encoding
from retreever.encoding.encoding_shards import PendingEncodings, encode_shard
from retreever.encoding.text_encodings import EmptyEncodings, Encodings, JoinedEncodings, LiveEncodings
from retreever.encoding.tokenized_texts import TextKind
from retreever.errors import EncoderError
from retreever.system.files import digest_json
from retreever.system.precision import find_device
from retreever.system.progress import Track, track_silently
from retreever.system.workspace import Workspace

if TYPE_CHECKING:
    from retreever.system.storage import Storage

ENCODINGS_FORMAT = 2


@dataclass(frozen=True)
class EncodedDataset:
    """A data set with the encodings of its queries, if any, and passages, row by row."""

    dataset: RetrievalDataset
    queries: Encodings
    passages: Encodings

    @property
    def dim(self) -> int:
        """Width of the encodings."""
        return self.passages.dim


def open_encoded_dataset(
    config: Config, workspace: Workspace, track: Track = track_silently, *, verify: bool = False
) -> EncodedDataset:
    """The data set of a configuration with its encodings; texts that are not in the store yet are encoded.

    Names joined by a plus are read as one data set, each from its own entries of the store.

    Args:
        verify: compare the checksums of stored encodings.

    Raises:
        BundleError: stored encodings are damaged.
        DataError: a data set cannot be read.
        EncoderError: there is no such encoder, or data sets have encodings of different widths.
        StorageError: shared storage cannot be read.
    """
    parts = [
        encode_dataset(
            dataset,
            config.encoding,
            workspace.encodings,
            track,
            storage=workspace.open_storage(),
            verify=verify,
            exports=workspace.exports,
        )
        for dataset in read_configured_datasets(config, workspace)
    ]
    if len(parts) == 1:
        return parts[0]
    return EncodedDataset(
        join_datasets([part.dataset for part in parts]),
        JoinedEncodings([part.queries for part in parts]),
        JoinedEncodings([part.passages for part in parts]),
    )


def read_configured_datasets(config: Config, workspace: Workspace) -> list[RetrievalDataset]:
    """Read the data sets that a configuration names; those missing here come from shared storage."""
    storage, found = workspace.open_storage(), []
    for name in _split_dataset_names(config.data.name):
        folder = workspace.dataset_folder(name)
        if storage and not folder.is_dir():
            storage.pull(f"data/{name}", folder)
        found.append(beir.read_beir(folder, config.data.on_bad))
    return found


def _split_dataset_names(name: str) -> list[str]:
    """Names of the data sets in a setting; an existing folder is one data set, even with a plus in its name."""
    return [name] if Path(name).expanduser().is_dir() else name.split(DATASET_NAME_SEPARATOR)


def encode_dataset(
    dataset: RetrievalDataset,
    config: EncoderConfig,
    store: Path,
    track: Track = track_silently,
    *,
    storage: "Storage | None" = None,
    verify: bool = False,
    exports: Path | None = None,
) -> EncodedDataset:
    """Encodings of a data set's queries and passages; the encoder is loaded only where one is missing.

    Args:
        storage: shared storage, searched before a text is encoded; new entries are pushed to it.
        verify: compare the checksums of stored encodings.
        exports: folder of the encoder's export; the default workspace's where it is None.
    """
    encoder = functools.cache(lambda: Encoder.load(config, find_device(), exports=exports))

    def open_encodings(texts: Sequence[str], kind: TextKind) -> Encodings:
        found = _load_or_encode(texts, kind, config, store, encoder, track, storage, verify)
        return LiveEncodings(found, texts, kind, encoder) if config.live else found

    passages = open_encodings(dataset.passage_texts(), "passage")
    queries = open_encodings(dataset.query_texts(), "query") if dataset.queries else EmptyEncodings(passages)
    return EncodedDataset(dataset, queries, passages)


def encode_texts(
    texts: Sequence[str], kind: TextKind, encoder: Encoder, store: Path, track: Track = track_silently
) -> Encodings:
    """Encodings of `texts`, from the store or by `encoder`.

    Raises:
        EncoderError: there are no texts.
    """
    return _load_or_encode(texts, kind, encoder.config, store, lambda: encoder, track)


def plan_encodings(
    texts: Sequence[str], kind: TextKind, config: EncoderConfig, store: Path, storage: "Storage | None" = None
) -> tuple[PendingEncodings, Path | None]:
    """The entry for the encodings of `texts`, and the folder of a stored entry that serves; None where there is none.

    An entry with token states also serves where none are wanted.

    Raises:
        EncoderError: there are no texts.
    """
    if not len(texts):
        raise EncoderError(f"{kind} texts: there are none to encode")
    dependencies = {
        "texts": _digest_texts(texts),
        "kind": kind,
        "format": ENCODINGS_FORMAT,
        **describe_encoding(config, kind),
    }
    tokens = bool(config.tokens) and not config.live
    folders = {kept: store / digest_json({**dependencies, "tokens": kept}) for kept in (True, False)}
    pending = PendingEncodings(folders[tokens], texts, kind, dependencies, tokens)
    for folder in [folders[True]] if tokens else [folders[True], folders[False]]:
        if folder.is_dir() or (storage and storage.pull(f"encodings/{folder.name}", folder)):
            return pending, folder
    return pending, None


def publish_encodings(pending: PendingEncodings, storage: "Storage | None" = None) -> Path:
    """Publish an entry whose shards are finished, on this machine and in shared storage; return its folder."""
    pending.publish()
    if storage and not storage.has(f"encodings/{pending.folder.name}"):
        storage.push(pending.folder, f"encodings/{pending.folder.name}")
    return pending.folder


def _load_or_encode(
    texts: Sequence[str],
    kind: TextKind,
    config: EncoderConfig,
    store: Path,
    encoder: Callable[[], Encoder],
    track: Track,
    storage: "Storage | None" = None,
    verify: bool = False,
) -> Encodings:
    pending, found = plan_encodings(texts, kind, config, store, storage)
    if found:
        return Encodings(found, verify)
    missing = pending.find_missing_shards()
    total = sum(len(pending.shard_texts(number)) for number in missing)
    try:
        for _ in track(_encode_shards(pending, missing, encoder()), f"encoding {kind} texts", total=total):
            pass
        publish_encodings(pending, storage)
    except FileNotFoundError:  # another process has published the entry and removed the shards
        if not pending.folder.is_dir():
            raise
    return Encodings(pending.folder)


def _encode_shards(pending: PendingEncodings, missing: list[int], encoder: Encoder) -> Iterator[int]:
    """Write the missing shards; yield once for every encoded text."""
    for number in missing:
        yield from encode_shard(
            pending.shard_texts(number), pending.kind, encoder, pending.shard_folder(number), pending.tokens
        )


def _digest_texts(texts: Sequence[str]) -> str:
    """Digest of a list of texts, with their lengths, so that ["ab", "c"] and ["a", "bc"] differ."""
    hashed = hashlib.sha256()
    for text in texts:
        raw = text.encode()
        hashed.update(len(raw).to_bytes(8, "little"))
        hashed.update(raw)
    return hashed.hexdigest()

"""Writing an entry of the encodings store: shard by shard, each whole or absent, then published at once.

A shard holds TEXTS_PER_SHARD texts. Its content depends on its texts alone, so that one process, many actors and a
second attempt after an interrupt write the same bytes. Finished shards wait in `.KEY.shards/` next to the entry; when
all are finished, the entry gets its name. This module does not know who encodes which shard.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retreever.encoding.encoder import EncodedBatch, Encoder
from retreever.encoding.tokenized_texts import TextKind
from retreever.errors import BundleError
from retreever.system.files import hash_file, read_json, seal_folder, verify_sealed_folder, write_atomically, write_json

TEXTS_PER_SHARD = 2048
POOLED_VECTORS_FILE, TOKEN_STATES_FILE, TOKEN_OFFSETS_FILE, ENCODINGS_MANIFEST_FILE = (
    "pooled.npy",
    "tokens.npy",
    "offsets.npy",
    "manifest.json",
)


@dataclass(frozen=True)
class PendingEncodings:
    """An entry that is not published yet.

    Attributes:
        folder: the entry's path once it is published.
        texts: all texts, in order.
        kind: query or passage.
        dependencies: all that the entry depends on, for its manifest.
        tokens: keep token states.
    """

    folder: Path
    texts: Sequence[str]
    kind: TextKind
    dependencies: Mapping[str, Any]
    tokens: bool

    def __len__(self) -> int:
        """Number of shards."""
        return -(-len(self.texts) // TEXTS_PER_SHARD)

    def shard_folder(self, number: int) -> Path:
        """Path of a finished shard."""
        return self.folder.parent / f".{self.folder.name}.shards" / f"{number:05d}"

    def shard_texts(self, number: int) -> Sequence[str]:
        """The texts of a shard."""
        return self.texts[number * TEXTS_PER_SHARD : (number + 1) * TEXTS_PER_SHARD]

    def find_missing_shards(self) -> list[int]:
        """Numbers of the shards that are missing or not whole."""
        return [number for number in range(len(self)) if not _is_whole(self.shard_folder(number))]

    def publish(self) -> None:
        """Assemble the shards and give the entry its name; every shard must be finished.

        Where another process was first, its entry stays: it is equal, and a reader may have it open.
        """
        with write_atomically(self.folder, replace=False) as aside:
            aside.mkdir()
            shards = [self.shard_folder(number) for number in range(len(self))]
            files = self._assemble_files(shards, aside)
            files |= {
                name: _describe_file(aside / name)
                for name in (POOLED_VECTORS_FILE, TOKEN_OFFSETS_FILE)
                if (aside / name).is_file()
            }
            manifest = {
                "known": dict(self.dependencies),
                "count": len(self.texts),
                "shard": TEXTS_PER_SHARD,
                "files": files,
            }
            write_json(aside / ENCODINGS_MANIFEST_FILE, manifest)
        shutil.rmtree(shards[0].parent, ignore_errors=True)

    def _assemble_files(self, shards: list[Path], aside: Path) -> dict[str, Any]:
        """Write pooled vectors and offsets, link token states; return the manifest's list of token files."""
        first = np.load(shards[0] / POOLED_VECTORS_FILE, mmap_mode="r")
        pooled = np.lib.format.open_memmap(
            aside / POOLED_VECTORS_FILE, "w+", np.float32, (len(self.texts), first.shape[1])
        )
        offsets, files = [np.zeros(1, np.int64)], {}
        for number, shard in enumerate(shards):
            pooled[number * TEXTS_PER_SHARD : (number + 1) * TEXTS_PER_SHARD] = np.load(
                shard / POOLED_VECTORS_FILE, mmap_mode="r"
            )
            if self.tokens:
                offsets.append(np.load(shard / TOKEN_OFFSETS_FILE)[1:] + offsets[-1][-1])
                name = token_file_name(number)
                _hard_link_or_copy(shard / TOKEN_STATES_FILE, aside / name)
                files[name] = read_json(shard / ENCODINGS_MANIFEST_FILE)["files"][TOKEN_STATES_FILE]
        pooled.flush()
        if self.tokens:
            np.save(aside / TOKEN_OFFSETS_FILE, np.concatenate(offsets))
        return files


def token_file_name(number: int) -> str:
    """Name of a shard's token states in an entry."""
    return f"tokens-{number:05d}.npy"


def encode_shard(texts: Sequence[str], kind: TextKind, encoder: Encoder, folder: Path, tokens: bool) -> Iterator[int]:
    """Write one shard, whole or not at all; yield once for every encoded text.

    Memory holds the token ids and one batch.
    """
    with write_atomically(folder) as aside:
        aside.mkdir()
        tokenized = encoder.tokenize(texts, kind)
        pooled = np.lib.format.open_memmap(aside / POOLED_VECTORS_FILE, "w+", np.float32, (len(texts), encoder.dim))
        states: np.ndarray | None = None
        if tokens:
            np.save(aside / TOKEN_OFFSETS_FILE, tokenized.offsets)
            shape = (int(tokenized.offsets[-1]), encoder.dim)
            states = np.lib.format.open_memmap(aside / TOKEN_STATES_FILE, "w+", np.uint16, shape)
        for encoded in encoder.encode_batches(tokenized, states=tokens):
            pooled[encoded.rows] = encoded.pooled
            if states is not None:
                _write_states(encoded, states, tokenized.offsets)
            yield from encoded.rows.tolist()
        pooled.flush()
        if isinstance(states, np.memmap):
            states.flush()
        seal_folder(aside, {})


def _write_states(encoded: EncodedBatch, states: np.ndarray, offsets: np.ndarray) -> None:
    assert encoded.states is not None
    bits = round_to_bfloat16(encoded.states)
    for own, start, end in zip(bits, offsets[encoded.rows], offsets[encoded.rows + 1], strict=True):
        states[start:end] = own[: end - start]


def round_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The bits of the nearest bfloat16 numbers, uint16, half to even, of finite float32 numbers.

    >>> [hex(bits) for bits in round_to_bfloat16(np.array([1.0, 1.00390625, 1.01171875, -2.0], np.float32))]
    ['0x3f80', '0x3f80', '0x3f82', '0xc000']
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded: np.ndarray = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return rounded


def _is_whole(shard: Path) -> bool:
    try:
        verify_sealed_folder(shard)
    except BundleError:
        return False
    return True


def _describe_file(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": hash_file(path)}


def _hard_link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file; copy it where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

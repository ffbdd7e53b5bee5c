"""How an entry of the encodings store is made: shard by shard, each whole or absent, then published at once.

A shard holds `SHARD` texts. What it holds depends on its texts alone, so that one process, many actors and a second
attempt after an interrupt write the same bytes. Finished shards wait in `.KEY.shards/` beside the entry until all are
there; then the entry gets its name. Who encodes which shard is not known here.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retreever.encoding.encoder import Encoded, Encoder, Kind
from retreever.errors import BundleError
from retreever.system.files import read_json, seal, sha256, unseal, write_aside, write_json

SHARD = 2048
POOLED, TOKENS, OFFSETS, MANIFEST = "pooled.npy", "tokens.npy", "offsets.npy", "manifest.json"


@dataclass(frozen=True)
class Making:
    """An entry that is being made.

    Attributes:
        folder: where it will lie.
        texts: all of them, in order.
        known: what the entry depends on, for its manifest.
        tokens: whether token states are kept.
    """

    folder: Path
    texts: Sequence[str]
    kind: Kind
    known: Mapping[str, Any]
    tokens: bool

    def __len__(self) -> int:
        """Number of shards."""
        return -(-len(self.texts) // SHARD)

    def shard(self, number: int) -> Path:
        """Where a finished shard waits."""
        return self.folder.parent / f".{self.folder.name}.shards" / f"{number:05d}"

    def texts_of(self, number: int) -> Sequence[str]:
        """The texts of a shard."""
        return self.texts[number * SHARD : (number + 1) * SHARD]

    def missing(self) -> list[int]:
        """Shards that are not there yet, or not whole."""
        return [number for number in range(len(self)) if not _whole(self.shard(number))]

    def publish(self) -> None:
        """Give the entry its name, once every shard is there.

        Where another process was first, its entry stays: it is as good, and somebody may be reading it.
        """
        with write_aside(self.folder, replace=False) as aside:
            aside.mkdir()
            shards = [self.shard(number) for number in range(len(self))]
            files = self._assemble(shards, aside)
            files |= {name: _listed(aside / name) for name in (POOLED, OFFSETS) if (aside / name).is_file()}
            manifest = {"known": dict(self.known), "count": len(self.texts), "shard": SHARD, "files": files}
            write_json(aside / MANIFEST, manifest)
        shutil.rmtree(shards[0].parent, ignore_errors=True)

    def _assemble(self, shards: list[Path], aside: Path) -> dict[str, Any]:
        """Pooled vectors and offsets in one file each, token states as they are; the manifest's list of the latter."""
        first = np.load(shards[0] / POOLED, mmap_mode="r")
        pooled = np.lib.format.open_memmap(aside / POOLED, "w+", np.float32, (len(self.texts), first.shape[1]))
        offsets, files = [np.zeros(1, np.int64)], {}
        for number, shard in enumerate(shards):
            pooled[number * SHARD : (number + 1) * SHARD] = np.load(shard / POOLED, mmap_mode="r")
            if self.tokens:
                offsets.append(np.load(shard / OFFSETS)[1:] + offsets[-1][-1])
                name = token_file(number)
                _link(shard / TOKENS, aside / name)
                files[name] = read_json(shard / MANIFEST)["files"][TOKENS]
        pooled.flush()
        if self.tokens:
            np.save(aside / OFFSETS, np.concatenate(offsets))
        return files


def token_file(number: int) -> str:
    """Name of a shard's token states in an entry."""
    return f"tokens-{number:05d}.npy"


def encode_shard(texts: Sequence[str], kind: Kind, encoder: Encoder, folder: Path, tokens: bool) -> Iterator[int]:
    """Write one shard, whole or not at all, yielding once for every text encoded.

    Memory holds the token ids and one batch.
    """
    with write_aside(folder) as aside:
        aside.mkdir()
        tokenized = encoder.tokenize(texts, kind)
        pooled = np.lib.format.open_memmap(aside / POOLED, "w+", np.float32, (len(texts), encoder.dim))
        states: np.ndarray | None = None
        if tokens:
            np.save(aside / OFFSETS, tokenized.offsets)
            shape = (int(tokenized.offsets[-1]), encoder.dim)
            states = np.lib.format.open_memmap(aside / TOKENS, "w+", np.uint16, shape)
        for encoded in encoder.batches(tokenized):
            pooled[encoded.rows] = encoded.pooled.cpu().numpy()
            if states is not None:
                _write_states(encoded, states, tokenized.offsets)
            yield from encoded.rows.tolist()
        pooled.flush()
        if isinstance(states, np.memmap):
            states.flush()
        seal(aside, {})


def _write_states(encoded: Encoded, states: np.ndarray, offsets: np.ndarray) -> None:
    bits = encoded.states.bfloat16().view(torch.int16).cpu().numpy().view(np.uint16)
    for own, start, end in zip(bits, offsets[encoded.rows], offsets[encoded.rows + 1], strict=True):
        states[start:end] = own[: end - start]


def _whole(shard: Path) -> bool:
    try:
        unseal(shard)
    except BundleError:
        return False
    return True


def _listed(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _link(source: Path, target: Path) -> None:
    """A second name for a file; a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

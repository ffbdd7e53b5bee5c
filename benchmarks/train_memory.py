"""How much memory does a worker take that trains cross-attention from a large token store?

    python -m benchmarks.train_memory FOLDER/arxiv-titles 256 --micro-batch 32

The texts and their lengths are those of the data set. The token states are random: memory does not depend on them, and
encoding 60,000 abstracts takes an hour on two cores. Mapped pages of the store (page cache, which all workers share and
the kernel reclaims at need) are reported apart from the worker's own memory.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from retreever.config import build_config
from retreever.data import beir
from retreever.encoding.encoder import Encoder
from retreever.encoding.encoding_shards import (
    ENCODINGS_MANIFEST_FILE,
    POOLED_VECTORS_FILE,
    TEXTS_PER_SHARD,
    TOKEN_OFFSETS_FILE,
    token_file_name,
)
from retreever.encoding.encoding_store import EncodedDataset, plan_encodings
from retreever.encoding.text_encodings import Encodings
from retreever.encoding.tokenized_texts import TextKind
from retreever.system.files import list_files, write_json
from retreever.system.memory import keep_freed_memory
from retreever.training import training_loop

DIM = 384


def write_random_encodings(texts: list[str], kind: TextKind, encoder: Encoder, store: Path) -> Encodings:
    """Write an entry of the store with random token states, as many per text as its tokens."""
    entry, _ = plan_encodings(texts, kind, encoder.config, store)
    offsets, count = encoder.tokenize(texts, kind).offsets, len(texts)
    entry.folder.mkdir(parents=True)
    np.save(entry.folder / TOKEN_OFFSETS_FILE, offsets)
    np.save(entry.folder / POOLED_VECTORS_FILE, np.zeros((count, DIM), np.float32))
    draw = np.random.default_rng(0)
    block = torch.from_numpy(draw.standard_normal((4096, DIM), np.float32) / DIM**0.5).bfloat16()
    bits = block.view(torch.int16).numpy().view(np.uint16)
    for number, start in enumerate(range(0, count, TEXTS_PER_SHARD)):
        tokens = int(offsets[min(count, start + TEXTS_PER_SHARD)] - offsets[start])
        np.save(entry.folder / token_file_name(number), np.resize(bits, (tokens, DIM)))
    manifest = {"known": dict(entry.dependencies), "count": count, "shard": TEXTS_PER_SHARD}
    write_json(entry.folder / ENCODINGS_MANIFEST_FILE, manifest | {"files": list_files(entry.folder)})
    return Encodings(entry.folder)


class MemoryWatcher(threading.Thread):
    """Peak memory of this process, from the kernel's counters, until `done`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.own = self.mapped = 0
        self.done = False

    def run(self) -> None:
        """Read the counters fifty times per second."""
        while not self.done:
            own, mapped = read_memory()
            self.own, self.mapped = max(self.own, own), max(self.mapped, mapped)
            time.sleep(0.02)


def read_memory() -> tuple[int, int]:
    """Read the bytes of this process's own memory, and the bytes of mapped files."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    known = {words[0]: words[1] for words in lines if len(words) > 1}
    return int(known["RssAnon:"]) * 1024, int(known["RssFile:"]) * 1024


def main() -> None:
    """Print the peak memory of a few steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("batch", type=int)
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    keep_freed_memory()  # as `retreever train` does
    train = {"batch_size": options.batch, "micro_batch": options.micro_batch, "steps": options.steps}
    train |= {"eval_every": options.steps, "eval_queries": 50, "eval_passages": 500}
    config = build_config({"encoder": {"words": 0.0}, "tree": {"split": "cross_attention"}, "train": train})  # DIM wide
    with tempfile.TemporaryDirectory() as scratch:
        dataset, encoder = beir.read_beir(options.data), Encoder.load(config.encoding)
        sides_of_texts: list[tuple[TextKind, list[str]]] = [
            ("query", dataset.query_texts()),
            ("passage", dataset.passage_texts()),
        ]
        sides = [
            write_random_encodings(list(texts), kind, encoder, Path(scratch) / "encodings")
            for kind, texts in sides_of_texts
        ]
        del encoder
        data, before, watcher = EncodedDataset(dataset, *sides), read_memory()[0], MemoryWatcher()
        watcher.start()
        result = training_loop.fit(config, data, Path(scratch) / "run")
        watcher.done = True
        size = sum(path.stat().st_size for path in Path(scratch).glob("encodings/*/*"))
        weights = 4 * (result.model / "model.safetensors").stat().st_size  # with gradient and two moments
    inputs = 2 * options.batch * 128 * DIM * 2
    print(f"store {size / 2**30:.1f} GiB, {len(dataset.corpus):,} passages")
    print(f"batch {options.batch}, micro-batch {options.micro_batch}")
    print(f"before training {before / 2**30:.2f} GiB; model and batch {(weights + inputs) / 2**30:.2f} GiB")
    print(
        f"peak: {watcher.own / 2**30:.2f} GiB of its own, {(watcher.own - before) / 2**30:.2f} above the start; ",
        end="",
    )
    print(f"{watcher.mapped / 2**30:.2f} GiB of mapped files")


if __name__ == "__main__":
    main()

"""How much memory does a worker take that trains cross-attention from a large token store?

    python -m benchmarks.train_memory FOLDER/arxiv-titles 256 --micro-batch 32

The texts and their lengths are those of the data set; the token states are drawn at random, since memory does not
depend on them and encoding 60,000 abstracts takes an hour on two cores. Memory that maps the store (page cache, shared
by all workers and given back when somebody needs it) is told apart from memory of the worker's own.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from retreever.config import build
from retreever.data import beir
from retreever.encoding.encoder import Encoder, Kind
from retreever.encoding.encoding_shards import MANIFEST, OFFSETS, POOLED, SHARD, token_file
from retreever.encoding.encoding_store import EncodedDataset, Encodings, makings
from retreever.system.files import inventory, write_json
from retreever.system.memory import keep_freed
from retreever.training import training_loop

DIM = 384


def fill(texts: list[str], kind: Kind, encoder: Encoder, store: Path) -> Encodings:
    """An entry of the store with random states of the lengths of `texts`."""
    making, _ = makings(texts, kind, encoder.config, store)
    offsets, count = encoder.tokenize(texts, kind).offsets, len(texts)
    making.folder.mkdir(parents=True)
    np.save(making.folder / OFFSETS, offsets)
    np.save(making.folder / POOLED, np.zeros((count, DIM), np.float32))
    draw = np.random.default_rng(0)
    block = torch.from_numpy(draw.standard_normal((4096, DIM), np.float32) / DIM**0.5).bfloat16()
    bits = block.view(torch.int16).numpy().view(np.uint16)
    for number, start in enumerate(range(0, count, SHARD)):
        tokens = int(offsets[min(count, start + SHARD)] - offsets[start])
        np.save(making.folder / token_file(number), np.resize(bits, (tokens, DIM)))
    manifest = {"known": dict(making.known), "count": count, "shard": SHARD}
    write_json(making.folder / MANIFEST, manifest | {"files": inventory(making.folder)})
    return Encodings(making.folder)


class Watcher(threading.Thread):
    """The largest memory of this process, by the kernel's account, until `done`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.own = self.mapped = 0
        self.done = False

    def run(self) -> None:
        """Look fifty times a second."""
        while not self.done:
            own, mapped = memory()
            self.own, self.mapped = max(self.own, own), max(self.mapped, mapped)
            time.sleep(0.02)


def memory() -> tuple[int, int]:
    """Bytes of this process's own, and bytes of mapped files."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    known = {words[0]: words[1] for words in lines if len(words) > 1}
    return int(known["RssAnon:"]) * 1024, int(known["RssFile:"]) * 1024


def main() -> None:
    """Print the peak of a few steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("batch", type=int)
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--steps", type=int, default=3)
    given = parser.parse_args()
    keep_freed()  # as `retreever train` does
    train = {"batch_size": given.batch, "micro_batch": given.micro_batch, "steps": given.steps}
    train |= {"eval_every": given.steps, "eval_queries": 50, "eval_passages": 500}
    config = build({"encoder": {"words": 0.0}, "tree": {"split": "cross_attention"}, "train": train})  # DIM wide
    with tempfile.TemporaryDirectory() as scratch:
        dataset, encoder = beir.read(given.data), Encoder.load(config.encoding)
        sides = [
            fill(list(texts), kind, encoder, Path(scratch) / "encodings")
            for kind, texts in (("query", dataset.query_texts()), ("passage", dataset.passage_texts()))
        ]
        del encoder
        data, before, watcher = EncodedDataset(dataset, *sides), memory()[0], Watcher()
        watcher.start()
        result = training_loop.fit(config, data, Path(scratch) / "run")
        watcher.done = True
        size = sum(path.stat().st_size for path in Path(scratch).glob("encodings/*/*"))
        weights = 4 * (result.model / "model.safetensors").stat().st_size  # with gradient and two moments
    inputs = 2 * given.batch * 128 * DIM * 2
    print(f"store {size / 2**30:.1f} GiB, {len(dataset.corpus):,} passages")
    print(f"batch {given.batch}, micro-batch {given.micro_batch}")
    print(f"before training {before / 2**30:.2f} GiB; model and batch {(weights + inputs) / 2**30:.2f} GiB")
    print(
        f"peak: {watcher.own / 2**30:.2f} GiB of its own, {(watcher.own - before) / 2**30:.2f} above the start; ",
        end="",
    )
    print(f"{watcher.mapped / 2**30:.2f} GiB of mapped files")


if __name__ == "__main__":
    main()

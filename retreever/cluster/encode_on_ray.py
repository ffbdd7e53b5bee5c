"""Encoding a data set on a cluster: Ray Data hands shards to a pool of encoders, each of which writes its own.

Only a shard's texts travel; what is encoded goes straight into the workspace, which all nodes must see. A shard is
whole or absent and its bytes depend on its texts alone, so an interrupted call goes on with the shards that are
missing, and the entry is the one that a single process would have made.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import ray.data
from ray.data import ActorPoolStrategy

from retreever.cluster.ray_runtime import cluster
from retreever.config import Config, EncoderConfig
from retreever.encoding.encoder import Encoder, Kind
from retreever.encoding.encoding_shards import Making, encode_shard
from retreever.encoding.encoding_store import EncodedDataset, makings, open_dataset, published, read_datasets
from retreever.system.progress import Track, silent
from retreever.system.workspace import Workspace


def encode(
    config: Config, workspace: Workspace, *, workers: int, gpu: bool = False, track: Track = silent
) -> EncodedDataset:
    """The data set of a configuration with its encodings; what is missing is encoded by `workers` actors.

    Args:
        gpu: one GPU for each actor; otherwise a CPU.
    """
    entries = _entries(config, workspace)
    shards = [(making, number) for making in entries for number in making.missing()]
    if shards:
        with cluster(workspace):
            done = _encoded(shards, config.encoding, workers, gpu)
            for _ in track(done, f"encoding on {workers} actors, shards", total=len(shards)):
                pass
    for making in entries:
        published(making, workspace.storage())
    return open_dataset(config, workspace, track)


def _entries(config: Config, workspace: Workspace) -> list[Making]:
    """The entries of the store that are not there yet."""
    kinds: tuple[Kind, Kind] = ("passage", "query")
    found = [
        makings(
            dataset.passage_texts() if kind == "passage" else dataset.query_texts(),
            kind,
            config.encoding,
            workspace.encodings,
            workspace.storage(),
        )
        for dataset in read_datasets(config, workspace)
        for kind in kinds
    ]
    return [making for making, place in found if place is None]


def _encoded(shards: list[tuple[Making, int]], config: EncoderConfig, workers: int, gpu: bool) -> Iterator[int]:
    """Have every shard written, yielding once for each."""
    rows = [
        {
            "folder": str(making.shard(number)),
            "kind": making.kind,
            "tokens": making.tokens,
            "texts": list(making.texts_of(number)),
        }
        for making, number in shards
    ]
    ray.data.DataContext.get_current().enable_progress_bars = False
    written = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Writer,
        batch_size=1,
        compute=ActorPoolStrategy(size=min(workers, len(rows))),
        num_cpus=1,
        num_gpus=1 if gpu else 0,
        fn_constructor_kwargs={"config": config.model_dump(mode="json"), "device": "cuda" if gpu else "cpu"},
    )
    for row in written.iter_rows():
        yield row["texts"]


class _Writer:
    """An encoder in an actor of its own."""

    def __init__(self, config: dict[str, Any], device: str):
        self.encoder = Encoder.load(EncoderConfig(**config), device)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Write the one shard of a batch."""
        texts, kind = batch["texts"][0].tolist(), str(batch["kind"][0])
        folder, tokens = Path(str(batch["folder"][0])), bool(batch["tokens"][0])
        count = len(list(encode_shard(texts, cast(Kind, kind), self.encoder, folder, tokens)))
        return {"texts": np.array([count])}

"""Encode a data set on a cluster: Ray Data hands shards to a pool of encoders, and each encoder writes its shards.

Only a shard's texts are sent. Encodings are written to the workspace, which all nodes must see. A shard is whole or
absent and its bytes depend on its texts alone. So a repeated call encodes only the shards that are missing, and the
result has the same bytes as that of a single process.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import ray.data
from ray.data import ActorPoolStrategy

from retreever.cluster.ray_runtime import join_cluster
from retreever.config import Config, EncoderConfig
from retreever.encoding.encoder import Encoder
from retreever.encoding.encoding_shards import PendingEncodings, encode_shard
from retreever.encoding.encoding_store import (
    EncodedDataset,
    open_encoded_dataset,
    plan_encodings,
    publish_encodings,
    read_configured_datasets,
)
from retreever.encoding.tokenized_texts import TextKind
from retreever.system.progress import Track, track_silently
from retreever.system.workspace import Workspace


def encode_with_actors(
    config: Config, workspace: Workspace, *, workers: int, gpu: bool = False, track: Track = track_silently
) -> EncodedDataset:
    """The data set of a configuration with its encodings; `workers` actors encode what is missing.

    Args:
        gpu: give each actor a GPU instead of a CPU.
    """
    entries = _find_missing_entries(config, workspace)
    shards = [(entry, number) for entry in entries for number in entry.find_missing_shards()]
    if shards:
        with join_cluster(workspace):
            done = _encode_shards(shards, config.encoding, workspace.exports, workers, gpu)
            for _ in track(done, f"encoding on {workers} actors, shards", total=len(shards)):
                pass
    for entry in entries:
        publish_encodings(entry, workspace.open_storage())
    return open_encoded_dataset(config, workspace, track)


def _find_missing_entries(config: Config, workspace: Workspace) -> list[PendingEncodings]:
    """The entries of a configuration that the store lacks."""
    texts: list[tuple[TextKind, list[str]]] = []
    for dataset in read_configured_datasets(config, workspace):
        texts += [("passage", dataset.passage_texts()), ("query", dataset.query_texts())]
    found = [
        plan_encodings(own, kind, config.encoding, workspace.encodings, workspace.open_storage())
        for kind, own in texts
        if own  # a corpus alone has no queries
    ]
    return [entry for entry, place in found if place is None]


def _encode_shards(
    shards: list[tuple[PendingEncodings, int]], config: EncoderConfig, exports: Path, workers: int, gpu: bool
) -> Iterator[int]:
    """Encode and write every shard; yield its number of texts."""
    rows = [
        {
            "folder": str(entry.shard_folder(number)),
            "kind": entry.kind,
            "tokens": entry.tokens,
            "texts": list(entry.shard_texts(number)),
        }
        for entry, number in shards
    ]
    ray.data.DataContext.get_current().enable_progress_bars = False
    written = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _ShardEncoder,
        batch_size=1,
        compute=ActorPoolStrategy(size=min(workers, len(rows))),
        num_cpus=1,
        num_gpus=1 if gpu else 0,
        fn_constructor_kwargs={
            "config": config.model_dump(mode="json"),
            "device": "cuda" if gpu else "cpu",
            "exports": str(exports),
        },
    )
    for row in written.iter_rows():
        yield row["texts"]


class _ShardEncoder:
    """An actor that holds an encoder, which uses the one CPU that the actor has."""

    def __init__(self, config: dict[str, Any], device: str, exports: str):
        self.encoder = Encoder.load(EncoderConfig(**config), device, threads=1, exports=Path(exports))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Encode and write the one shard of a batch."""
        texts, kind = batch["texts"][0].tolist(), str(batch["kind"][0])
        folder, tokens = Path(str(batch["folder"][0])), bool(batch["tokens"][0])
        count = len(list(encode_shard(texts, cast(TextKind, kind), self.encoder, folder, tokens)))
        return {"texts": np.array([count])}

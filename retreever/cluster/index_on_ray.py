"""Indexing a corpus on a cluster: Ray Data hands out shards, each becomes a segment, and a manifest joins them.

Nothing but row numbers travels: encodings are read from the workspace, which all nodes must see, and segments are
written beside the bundle. A segment is whole or absent and named after its rows, so an interrupted call goes on with
those that are missing. Memory holds one segment an actor, whatever the size of the corpus.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray.data
from ray.data import ActorPoolStrategy

from retreever.bundle.make_bundle import write_bundle
from retreever.cluster.ray_runtime import cluster
from retreever.encoding.encoding_store import EncodedDataset, open_dataset
from retreever.index import TreeIndex, index_store
from retreever.index.build.segment_builder import SAMPLE, codes_for, segments, vectors_of
from retreever.index.codes.passage_code import Code
from retreever.index.index_layout import Layout
from retreever.index.segment import FLAT, LARGEST
from retreever.system import memory
from retreever.system.files import digest
from retreever.system.progress import Track, silent
from retreever.system.workspace import Workspace
from retreever.trained_tree import layout_of, load_model, model_digest, routed

Shard = tuple[int, int]


def index_in_shards(
    model: Path, target: Path, workspace: Workspace, *, workers: int, shard: int = LARGEST, track: Track = silent
) -> dict[str, Any]:
    """Write a bundle as `make_bundle` does, its segments made by `workers` actors.

    Args:
        shard: passages of a segment, at most; fewer where some workers would have nothing to do.

    Returns:
        The statistics of the index.
    """
    tree, config = load_model(model)
    data = open_dataset(config, workspace, track)
    layout = layout_of(tree, config, model_digest(model))
    rows = len(data.passages)
    size = min(shard, max(FLAT, -(-rows // workers)))
    shards = [(start, min(start + size, rows)) for start in range(0, rows, size)]
    draft = _draft(target, layout, data, size)

    def build(folder: Path) -> TreeIndex:
        with cluster(workspace):
            done = _written(model, draft, workspace, shards, workers)
            for _ in track(done, f"indexing on {workers} actors, shards", total=len(shards)):
                pass
        os.rename(draft, folder)
        index_store.finish(folder, layout, [_name(part) for part in shards], _codes(model, data, layout))
        return TreeIndex.load(folder)

    return write_bundle(model, target, data, build)


def _written(
    model: Path, draft: Path, workspace: Workspace, shards: list[Shard], workers: int
) -> Iterator[dict[str, Any]]:
    """Have every shard written that is not there yet, yielding once for each."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"start": start, "end": end} for start, end in shards]
    made = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Writer,
        batch_size=1,
        compute=ActorPoolStrategy(size=min(workers, len(rows))),
        num_cpus=1,
        fn_constructor_kwargs={"model": str(model), "draft": str(draft), "root": str(workspace.root)},
    )
    yield from made.iter_rows()


class _Writer:
    """A tree and the encodings of its corpus in an actor of its own."""

    def __init__(self, model: str, draft: str, root: str):
        memory.keep_freed()
        self.tree, self.config = load_model(Path(model))
        self.data = open_dataset(self.config, Workspace.at(Path(root)))
        self.layout = layout_of(self.tree, self.config, model_digest(Path(model)))
        self.codes = _codes(Path(model), self.data, self.layout)
        self.draft = Path(draft)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Write the one shard of a batch, unless it is there."""
        start, end = int(batch["start"][0]), int(batch["end"][0])
        name = _name((start, end))
        if index_store.kept(self.draft, self.layout, name) is None:
            shutil.rmtree(self.draft / "segments" / name, ignore_errors=True)
            nodes = routed(self.tree, self.config, self.data.passages, np.arange(start, end))
            ids = [passage.id for passage in self.data.dataset.corpus[start:end]]
            (segment,) = segments(nodes, ids, self.layout, self.codes, start)
            index_store.keep(self.draft, self.layout, segment, name)
        return {"passages": np.array([end - start])}


def _draft(target: Path, layout: Layout, data: EncodedDataset, size: int) -> Path:
    """Where the segments of a bundle are until all are there; another model, corpus or size has another place."""
    return target.parent / f".{target.name}.{digest([vars(layout), data.dataset.digest, size])}.shards"


def _name(shard: Shard) -> str:
    return f"{shard[0]:010d}-{shard[1]:010d}"


def _codes(model: Path, data: EncodedDataset, layout: Layout) -> dict[int, Code]:
    """Codes fitted to a sample of the corpus: the same wherever they are made."""
    tree, config = load_model(model)
    rows = len(data.passages)
    if rows < FLAT and not layout.compact:
        return {}
    chosen = np.sort(np.random.default_rng(0).permutation(rows)[:SAMPLE])
    nodes = np.concatenate(list(routed(tree, config, data.passages, chosen)))
    return codes_for(vectors_of(nodes, layout), layout)

"""Index a corpus on a cluster: Ray Data hands out shards, each becomes a segment, and a manifest joins the segments.

Only row numbers are sent. Encodings are read from the workspace, which all nodes must see, and segments are written to
a folder next to the bundle. A segment is whole or absent and named after its rows, so a repeated call builds only the
missing ones. An actor holds one segment in memory, whatever the size of the corpus.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray.data
from ray.data import ActorPoolStrategy

from retreever.bundle.build_index import make_lexical_settings
from retreever.bundle.fit_hybrid import fit_hybrid, summarize_hybrid
from retreever.bundle.fit_relevance import fit_relevance, summarize_relevance
from retreever.bundle.make_bundle import complete_bundle, open_guards
from retreever.bundle.nodes.node_names import carry_names
from retreever.cluster.ray_runtime import join_cluster
from retreever.encoding.encoding_store import EncodedDataset, open_encoded_dataset
from retreever.index import TreeIndex, index_store
from retreever.index.build.segment_builder import CODE_FITTING_SAMPLE, build_segments, fit_codes, make_level_vectors
from retreever.index.codes.passage_code import PassageCode
from retreever.index.lexical.lexical_side import LexicalSide
from retreever.index.segment import MAX_SEGMENT_PASSAGES, MIN_CODED_PASSAGES
from retreever.system import memory
from retreever.system.files import digest_json, write_atomically
from retreever.system.progress import Track, track_silently
from retreever.system.workspace import Workspace
from retreever.trained_tree import TrainedTree, load_trained_tree, route_encodings

RowRange = tuple[int, int]


def index_in_shards(
    model: Path,
    target: Path,
    workspace: Workspace,
    *,
    workers: int,
    shard: int = MAX_SEGMENT_PASSAGES,
    track: Track = track_silently,
) -> dict[str, Any]:
    """Write a bundle as `make_bundle` does, with its segments built by `workers` actors.

    Args:
        shard: most passages of a segment; fewer if otherwise a worker had nothing to do.

    Returns:
        The statistics that `make_bundle` returns.
    """
    trained = load_trained_tree(model)
    data = open_encoded_dataset(trained.config, workspace, track)
    layout, rows = trained.layout, len(data.passages)
    size = min(shard, max(MIN_CODED_PASSAGES, -(-rows // workers)))
    shards = [(start, min(start + size, rows)) for start in range(0, rows, size)]
    draft = _draft_folder(target, trained, data, size)

    with join_cluster(workspace):
        done = _write_segments(model, draft, workspace, shards, workers)
        for _ in track(done, f"indexing on {workers} actors, shards", total=len(shards)):
            pass
    names, codes = [_segment_name(part) for part in shards], _fit_codes(trained, data)
    with write_atomically(target) as aside:
        aside.mkdir()
        os.rename(draft, aside / "index")
        index_store.finish_index(aside / "index", layout, names, codes, _fit_lexical_side(trained, data))
        index = TreeIndex.load(aside / "index")
        guards = open_guards(trained.config, workspace, track)
        hybrid = fit_hybrid(trained, data, index, guards, track)
        relevance = fit_relevance(trained, data, index, hybrid, track)
        complete_bundle(trained, data.dataset, index, aside, relevance, hybrid)
        carry_names(target, aside, trained.digest)
    return index.stats() | summarize_relevance(relevance) | summarize_hybrid(hybrid)


def _write_segments(
    model: Path, draft: Path, workspace: Workspace, shards: list[RowRange], workers: int
) -> Iterator[dict[str, Any]]:
    """Write the segment of every shard that has none yet; yield once for each shard."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"start": start, "end": end} for start, end in shards]
    written = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _SegmentWriter,
        batch_size=1,
        compute=ActorPoolStrategy(size=min(workers, len(rows))),
        num_cpus=1,
        fn_constructor_kwargs={"model": str(model), "draft": str(draft), "root": str(workspace.root)},
    )
    yield from written.iter_rows()


class _SegmentWriter:
    """An actor that holds a tree and the encodings of its corpus."""

    def __init__(self, model: str, draft: str, root: str):
        memory.keep_freed_memory()
        self.trained = load_trained_tree(Path(model))
        self.data = open_encoded_dataset(self.trained.config, Workspace.at(Path(root)))
        self.layout, self.codes = self.trained.layout, _fit_codes(self.trained, self.data)
        self.side = _fit_lexical_side(self.trained, self.data)
        self.draft = Path(draft)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Write the segment of the one shard of a batch, unless it exists."""
        start, end = int(batch["start"][0]), int(batch["end"][0])
        name = _segment_name((start, end))
        if index_store.find_stored_segment(self.draft, self.layout, name) is None:
            shutil.rmtree(self.draft / "segments" / name, ignore_errors=True)
            nodes = route_encodings(self.trained.tree, self.trained.config, self.data.passages, np.arange(start, end))
            ids = [passage.id for passage in self.data.dataset.corpus[start:end]]
            texts = self.data.dataset.passage_texts()[start:end] if self.side else None
            encodings = self.data.passages.frozen_part[start:end] if self.layout.encoding_dim else None
            (segment,) = build_segments(nodes, ids, self.layout, self.codes, start, self.side, texts, encodings)
            index_store.store_segment(self.draft, self.layout, segment, name)
        return {"passages": np.array([end - start])}


def _draft_folder(target: Path, trained: TrainedTree, data: EncodedDataset, size: int) -> Path:
    """Folder of the segments until all exist; its name depends on model, settings, corpus and segment size."""
    made_of = [vars(trained.layout), trained.config.index.model_dump(), data.dataset.digest, size]
    return target.parent / f".{target.name}.{digest_json(made_of)}.shards"


def _segment_name(shard: RowRange) -> str:
    return f"{shard[0]:010d}-{shard[1]:010d}"


def _fit_lexical_side(trained: TrainedTree, data: EncodedDataset) -> LexicalSide | None:
    """Constants of the words of the whole corpus: the same on every machine."""
    settings = make_lexical_settings(trained.config)
    return LexicalSide.fit(data.dataset.passage_texts(), settings, trained.layout) if settings else None


def _fit_codes(trained: TrainedTree, data: EncodedDataset) -> dict[int, PassageCode]:
    """Codes fitted to a fixed sample of the corpus: the same on every machine."""
    layout, rows = trained.layout, len(data.passages)
    if rows < MIN_CODED_PASSAGES and not layout.compact:
        return {}
    chosen = np.sort(np.random.default_rng(0).permutation(rows)[:CODE_FITTING_SAMPLE])
    nodes = np.concatenate(list(route_encodings(trained.tree, trained.config, data.passages, chosen)))
    encodings = np.array(data.passages.frozen_part[chosen]) if layout.encoding_dim else None
    return fit_codes(make_level_vectors(nodes, layout, encodings), layout)

"""From a trained tree to a bundle: its corpus routed and indexed, its documents and what its nodes mean."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from retreever.bundle.document_store import Documents, write_documents
from retreever.bundle.node_explanation import explain
from retreever.bundle.retriever import EXPLANATION
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset, open_dataset
from retreever.index.tree_index import TreeIndex
from retreever.model import RoutingTree
from retreever.system.files import seal, write_aside
from retreever.system.progress import Track, silent
from retreever.system.workspace import Workspace
from retreever.trained_tree import FORMAT, MODEL_FILES, chunks, layout_of, load_model, model_digest, routed


def make_bundle(model: Path, target: Path, workspace: Workspace, track: Track = silent) -> dict[str, Any]:
    """Index the corpus that a model's configuration names and write model, index and documents to `target`.

    Returns:
        The statistics of the index.
    """
    tree, config = load_model(model)
    data = open_dataset(config, workspace, track)
    return write_bundle(
        model, target, data, lambda folder: build_index(tree, config, data, model_digest(model), track, folder)
    )


def write_bundle(model: Path, target: Path, data: EncodedDataset, build: Callable[[Path], TreeIndex]) -> dict[str, Any]:
    """Write a bundle to `target`, whole or not at all.

    Args:
        build: writes the index to the folder given.

    Returns:
        The statistics of the index.
    """
    with write_aside(target) as aside:
        aside.mkdir()
        for name in MODEL_FILES:
            shutil.copy2(model / name, aside / name)
        index = build(aside / "index")
        write_documents(data.dataset.corpus, aside / "documents")
        explain(index, Documents(aside / "documents")).save(aside / EXPLANATION, index.layout.model)
        seal(aside, {"format": FORMAT, "dataset": data.dataset.name, "dataset_digest": data.dataset.digest})
    return index.stats()


def build_index(
    tree: RoutingTree,
    config: Config,
    data: EncodedDataset,
    digest: str,
    track: Track = silent,
    folder: Path | None = None,
) -> TreeIndex:
    """Route a corpus and index it.

    Args:
        digest: of the model, by which the index knows it.
        folder: write the index there as it grows; in memory where it is None.
    """
    layout = layout_of(tree, config, digest)
    nodes = track(routed(tree, config, data.passages), "indexing, chunks", total=chunks(config, len(data.passages)))
    return TreeIndex.build(nodes, [passage.id for passage in data.dataset.corpus], layout, folder)

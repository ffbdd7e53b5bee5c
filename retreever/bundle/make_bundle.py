"""From a trained tree to a bundle: route and index a corpus, fit relevance, write documents and explanation.

The index may be built in this process by `build_index`, or elsewhere; shards on a cluster are not known here.
"""

import shutil
from pathlib import Path
from typing import Any

from retreever.bundle.document_store import DocumentStore, write_documents
from retreever.bundle.fit_relevance import fit_relevance, summarize_relevance
from retreever.bundle.node_explanation import explain_nodes
from retreever.bundle.node_names import carry_names
from retreever.bundle.relevance import Relevance
from retreever.bundle.retriever import EXPLANATION_FOLDER
from retreever.data.dataset import RetrievalDataset
from retreever.encoding.encoding_store import EncodedDataset, open_encoded_dataset
from retreever.index.tree_index import TreeIndex
from retreever.system.files import seal_folder, write_atomically
from retreever.system.progress import Track, track_silently
from retreever.system.workspace import Workspace
from retreever.trained_tree import (
    BUNDLE_FORMAT,
    MODEL_FILES,
    TrainedTree,
    count_chunks,
    load_trained_tree,
    route_encodings,
)


def make_bundle(model: Path, target: Path, workspace: Workspace, track: Track = track_silently) -> dict[str, Any]:
    """Index the corpus that a model's configuration names; write the bundle to `target`, whole or not at all.

    Returns:
        The statistics of the index, and the calibration errors of relevance by level.
    """
    trained = load_trained_tree(model)
    data = open_encoded_dataset(trained.config, workspace, track)
    with write_atomically(target) as aside:
        index = build_index(trained, data, track, aside / "index")
        relevance = fit_relevance(trained, data, index, track)
        complete_bundle(trained, data.dataset, index, aside, relevance)
        carry_names(target, aside, trained.digest)
    return index.stats() | summarize_relevance(relevance)


def build_index(
    trained: TrainedTree, data: EncodedDataset, track: Track = track_silently, folder: Path | None = None
) -> TreeIndex:
    """Route a corpus and index it.

    Args:
        folder: write the index there as it grows; the index stays in memory where it is None.
    """
    chunks = route_encodings(trained.tree, trained.config, data.passages)
    tracked = track(chunks, "indexing, chunks", total=count_chunks(trained.config, len(data.passages)))
    return TreeIndex.build(tracked, [passage.id for passage in data.dataset.corpus], trained.layout, folder)


def complete_bundle(
    trained: TrainedTree,
    dataset: RetrievalDataset,
    index: TreeIndex,
    folder: Path,
    relevance: Relevance | None = None,
) -> None:
    """Write model, documents, explanation and relevance into a folder that has the index already, and seal it.

    Args:
        dataset: its corpus is what `index`, at `folder/index`, was built of, in the same order.
        relevance: fitted to this index; hits get none where it is None.
    """
    for name in MODEL_FILES:
        shutil.copy2(trained.folder / name, folder / name)
    write_documents(dataset.corpus, folder / "documents")
    explanation = explain_nodes(index, DocumentStore(folder / "documents"), trained.config.index.explain_nodes)
    explanation.save(folder / EXPLANATION_FOLDER, trained.digest)
    if relevance is not None:
        relevance.save(folder, trained.digest)
    seal_folder(folder, {"format": BUNDLE_FORMAT, "dataset": dataset.name, "dataset_digest": dataset.digest})

"""From a trained tree to a bundle: index a corpus, fit weights and relevance, write documents and explanation.

Shards on a cluster are not known here.
"""

import shutil
from pathlib import Path
from typing import Any

from retreever.bundle.build_index import build_index
from retreever.bundle.document_store import DocumentStore, write_documents
from retreever.bundle.fit_hybrid import fit_hybrid, summarize_hybrid
from retreever.bundle.fit_relevance import fit_relevance, summarize_relevance
from retreever.bundle.hybrid_weights import HybridWeights
from retreever.bundle.nodes.node_explanation import explain_nodes
from retreever.bundle.nodes.node_names import carry_names
from retreever.bundle.relevance import Relevance
from retreever.bundle.retriever import EXPLANATION_FOLDER
from retreever.config import Config
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
    load_trained_tree,
)


def make_bundle(model: Path, target: Path, workspace: Workspace, track: Track = track_silently) -> dict[str, Any]:
    """Index the corpus that a model's configuration names; write the bundle to `target`, whole or not at all.

    Returns:
        The statistics of the index, the calibration errors of relevance by level, and the weights of its hybrid.
    """
    trained = load_trained_tree(model)
    data = open_encoded_dataset(trained.config, workspace, track)
    with write_atomically(target) as aside:
        index = build_index(trained, data, track, aside / "index")
        guards = open_guards(trained.config, workspace, track)
        hybrid = fit_hybrid(trained, data, index, guards, track)
        relevance = fit_relevance(trained, data, index, hybrid, track)
        complete_bundle(trained, data.dataset, index, aside, relevance, hybrid)
        carry_names(target, aside, trained.digest)
    return index.stats() | summarize_relevance(relevance) | summarize_hybrid(hybrid)


def open_guards(config: Config, workspace: Workspace, track: Track = track_silently) -> dict[str, EncodedDataset]:
    """The data of the guard sets of a configuration, by name.

    Raises:
        DataError: a guard set cannot be read.
    """
    return {name: open_encoded_dataset(guard, workspace, track) for name, guard in config.guards.items()}


def complete_bundle(
    trained: TrainedTree,
    dataset: RetrievalDataset,
    index: TreeIndex,
    folder: Path,
    relevance: Relevance | None = None,
    hybrid: HybridWeights | None = None,
) -> None:
    """Write model, documents, explanation and relevance into a folder that has the index already, and seal it.

    Args:
        dataset: its corpus is what `index`, at `folder/index`, was built of, in the same order.
        relevance: fitted to this index; hits get none where it is None.
        hybrid: weights, chosen with this index.
    """
    for name in MODEL_FILES:
        shutil.copy2(trained.folder / name, folder / name)
    write_documents(dataset.corpus, folder / "documents")
    explanation = explain_nodes(index, DocumentStore(folder / "documents"), trained.config.index.explain_nodes)
    explanation.save(folder / EXPLANATION_FOLDER, trained.digest)
    if relevance is not None:
        relevance.save(folder, trained.digest)
    if hybrid is not None:
        hybrid.save(folder, trained.digest)
    seal_folder(folder, {"format": BUNDLE_FORMAT, "dataset": dataset.name, "dataset_digest": dataset.digest})

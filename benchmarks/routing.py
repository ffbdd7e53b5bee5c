"""Do the nodes of a tree mean something? Agreement of pairs, topics, and the nodes that a search could skip.

    python -m benchmarks.routing MODEL ... [--data NAME] [--split dev] [--labels FILE]

MODEL is a run's name or a model's folder; several are told one by one, then their mean. On the queries of a split:
routing agreement above chance by level (a query and its passage on the same most probable node), the share of the
largest of 64 nodes, and the share of a query's top 10 that lies on the four and the eight nodes of 64 that are most
probable for it by the sharp reading, with the share of all passages that lies there. On the passages: normalised mutual
information of the most probable node, by the soft and by the sharp reading, with a label: the passage's `package`,
`category` or `source`, or that of its queries; or the `label` of the documents in --labels, which the tree never saw.
The baseline in the same run is hierarchical 2-means of the same encodings.
"""

import argparse
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import normalized_mutual_info_score

from retreever.config import Config
from retreever.encoding.encoder import Encoder
from retreever.encoding.encoding_store import EncodedDataset, encode_texts, open_encoded_dataset
from retreever.encoding.text_encodings import Encodings
from retreever.evaluation.metrics import group_judgements
from retreever.evaluation.ranking import top_k
from retreever.model import Tree
from retreever.model.health import measure_agreement
from retreever.model.rows.two_means import cluster_hierarchically, project_on_own_node
from retreever.model.sharp_reading import find_sharpness, sharpen
from retreever.system.workspace import Workspace
from retreever.tracking.model_registry import locate_model
from retreever.trained_tree import TrainedTree, load_trained_tree, route_encodings

LEVEL, EFFECTIVE_NODES = 6, 4.0
LABELLED_LEVELS = (3, 4, 5, 6)
LABEL_KEYS = ("package", "category", "source")
NEAREST, WIDTHS = 10, (4, 8)
SHARPNESS_SAMPLE = 4096  # passages by which the sharpness is found


def main() -> None:
    """Print the figures of every model as one line of JSON, then their means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", help="a data set other than the model's own")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--labels", type=Path, help="docs.jsonl.gz with title, text and label: topics alone are judged")
    chosen, workspace, found = parser.parse_args(), Workspace.default(), []
    for name in chosen.models:
        trained = load_trained_tree(locate_model(name, workspace))
        config = trained.config.with_overrides({"data.name": chosen.data or trained.config.data.name})
        if chosen.labels:
            figures = measure_topics(trained, *read_labelled_documents(chosen.labels, config, workspace))
        else:
            data = open_encoded_dataset(config, workspace)
            figures = measure_pairs(trained, data, chosen.split)
            figures |= measure_topics(trained, data.passages, find_labels(data))
        found.append(figures)
        print(json.dumps({"model": name, **_round(figures)}), flush=True)
    if len(found) > 1:
        means = {key: float(np.mean([figures[key] for figures in found])) for key in found[0]}
        print(json.dumps({"model": "mean", **_round(means)}))


def measure_pairs(trained: TrainedTree, data: EncodedDataset, split: str) -> dict[str, float]:
    """Agreement of pairs, and the share of the top 10 on a query's most probable nodes."""
    rows, relevant = group_judgements(data.dataset.qrels[split])
    queries, passages = route(trained, data.queries, rows), route(trained, data.passages)
    pairs = torch.tensor([(i, row) for i, (own, _) in enumerate(relevant) for row in own.tolist()])
    tree = trained.tree.tree
    agreement = measure_agreement(torch.from_numpy(queries), torch.from_numpy(passages), pairs, tree)
    figures = {
        f"{name}, soft": agreement[name] for name in ("routing_agreement/level_04", "routing_agreement/level_06")
    }
    soft = [nodes[:, tree.level(LEVEL)] for nodes in (queries, passages)]
    sharp = [read_sharply(nodes, soft[1]) for nodes in soft]
    agreement = measure_agreement(*map(torch.from_numpy, sharp), pairs, Tree(LEVEL))
    figures |= {
        f"{name}, sharp": agreement[name] for name in ("routing_agreement/level_04", "routing_agreement/level_06")
    }
    ways, own = (nodes[:, Tree(LEVEL).level(LEVEL)] for nodes in sharp)
    nodes = own.argmax(1)
    sizes = np.bincount(nodes, minlength=2**LEVEL) / len(nodes)
    figures["largest node, soft"] = float(np.bincount(soft[1].argmax(1)).max() / len(nodes))
    figures["largest node, sharp"] = float(sizes.max())
    leaves = (side[:, tree.level(tree.depth)] for side in (queries, passages))
    best, _ = top_k(*leaves, NEAREST, trained.layout.similarity)
    order = np.argsort(-ways, axis=1)
    for width in WIDTHS:
        held = [np.isin(nodes[hits], way).mean() for hits, way in zip(best, order[:, :width], strict=True)]
        figures[f"top {NEAREST} on {width} nodes"] = float(np.mean(held))
        figures[f"passages on {width} nodes"] = float(sizes[order[:, :width]].sum(1).mean())
    return figures


def measure_topics(trained: TrainedTree, passages: Encodings, labels: np.ndarray) -> dict[str, float]:
    """Normalised mutual information of node and label, by level."""
    tree, nodes = trained.tree.tree, route(trained, passages)
    deepest = nodes[:, tree.level(max(LABELLED_LEVELS))]
    sharp = read_sharply(deepest, deepest)
    clusters = dict(enumerate(cluster_nodes(passages, max(LABELLED_LEVELS)), 1))
    figures = {}
    for reading in ("soft", "sharp", "2-means"):
        for d in LABELLED_LEVELS:
            own = clusters[d] if reading == "2-means" else (nodes if reading == "soft" else sharp)[:, tree.level(d)]
            own = own if own.ndim == 1 else own.argmax(1)
            figures[f"NMI level {d}, {reading}"] = float(normalized_mutual_info_score(labels, own))
    return figures


def route(trained: TrainedTree, encodings: Encodings, rows: np.ndarray | None = None) -> np.ndarray:
    """Probabilities of all nodes."""
    return np.concatenate(list(route_encodings(trained.tree, trained.config, encodings, rows)))


def read_sharply(probabilities: np.ndarray, passages: np.ndarray) -> np.ndarray:
    """All nodes down to a level, at the sharpness at which the average passage has `EFFECTIVE_NODES` nodes there."""
    beta = find_sharpness(torch.from_numpy(passages[:SHARPNESS_SAMPLE]), EFFECTIVE_NODES)
    return sharpen(torch.from_numpy(probabilities), beta).numpy()


def cluster_nodes(passages: Encodings, levels: int) -> Iterator[np.ndarray]:
    """The node of every passage at each level below the root, by hierarchical 2-means of centred encodings."""
    x = torch.from_numpy(np.array(passages.pooled, np.float32))
    x = F.normalize(x - x.mean(0), dim=1)
    node = torch.zeros(len(x), dtype=torch.long)
    for directions in cluster_hierarchically(x, levels, torch.Generator().manual_seed(0)):
        node = 2 * node + (project_on_own_node(x, directions, node) < 0)
        yield node.numpy()


def find_labels(data: EncodedDataset) -> np.ndarray:
    """A number for the label of every passage; a passage without one has that of a query that it answers."""
    labels = [_pick_label(passage.metadata) for passage in data.dataset.corpus]
    for judged in data.dataset.qrels.values():
        for query, passage, _ in judged.tolist():
            labels[passage] = labels[passage] or _pick_label(data.dataset.queries[query].metadata)
    return np.unique([label or "" for label in labels], return_inverse=True)[1]


def _pick_label(metadata: dict) -> str | None:
    """The label in a text's metadata, cut at its first dot: `cs.DS` is of archive `cs`."""
    return next((str(metadata[key]).partition(".")[0] for key in LABEL_KEYS if key in metadata), None)


def read_labelled_documents(path: Path, config: Config, workspace: Workspace) -> tuple[Encodings, np.ndarray]:
    """Encodings of the documents of a file, and a number for the label of each."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        documents = [json.loads(line) for line in file]
    texts = [f"{document.get('title', '')} {document['text']}".strip() for document in documents]
    kept = [i for i, text in enumerate(texts) if text]
    encodings = encode_texts([texts[i] for i in kept], "passage", Encoder.load(config.encoding), workspace.encodings)
    labels = [str(documents[i]["label"]).partition(".")[0] for i in kept]
    return encodings, np.unique(labels, return_inverse=True)[1]


def _round(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in figures.items()}


if __name__ == "__main__":
    main()

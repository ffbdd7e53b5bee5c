"""Corpora of any size, made of a model's own: encodings mixed so that its tree prunes them as the real ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import typer

from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset, open_dataset
from retreever.index import Layout, TreeIndex
from retreever.model import RoutingTree
from retreever.system.workspace import Workspace
from retreever.trained_tree import load_model

K = 10
CHUNK = 8_192


@dataclass(frozen=True)
class Corpus:
    """Encodings of passages and of queries, and the tree that routes both."""

    tree: RoutingTree
    config: Config
    passages: np.ndarray
    queries: np.ndarray
    texts: list[str]
    asked_texts: list[str]

    @classmethod
    def open(cls, model: Path, workspace: Workspace, queries: int) -> "Corpus":
        """A trained tree with the pooled encodings of its data set's passages and of some test queries."""
        tree, config = load_model(model)
        if config.tree.split == "cross_attention":
            raise typer.BadParameter("made corpora are pooled encodings; name a tree with a linear or mlp split")
        data: EncodedDataset = open_dataset(config, workspace)
        rows = np.random.default_rng(0).permutation(np.unique(data.dataset.pairs("test")[:, 0]))[:queries]
        texts = data.dataset.query_texts()
        return cls(
            tree,
            config,
            np.array(data.passages.pooled),
            np.array(data.queries.pooled)[rows],
            data.dataset.passage_texts(),
            [texts[row] for row in rows],
        )

    def made(self, count: int, t: float, seed: int = 0) -> Iterator[np.ndarray]:
        """Encodings of passages that do not exist, in chunks."""
        draw = np.random.default_rng(seed)
        for start in range(0, count, CHUNK):
            a, b, c = self.passages[draw.integers(len(self.passages), size=(3, min(CHUNK, count - start)))]
            mixed = a + np.float32(t) * (b - c)
            yield mixed / np.linalg.norm(mixed, axis=1, keepdims=True)

    def read(self, encodings: np.ndarray) -> np.ndarray:
        """What the encoder alone says of them, as its rivals search it: without the words that stand beside it."""
        if not self.config.encoder.words:
            return encodings
        own = encodings[:, : encodings.shape[1] // 2]
        return own / np.linalg.norm(own, axis=1, keepdims=True)

    def routed(self, encodings: np.ndarray) -> np.ndarray:
        """Node probabilities."""
        with torch.inference_mode():
            return self.tree(torch.from_numpy(encodings)).float().exp().numpy()

    @property
    def layout(self) -> Layout:
        """Of an index of this tree."""
        config = self.config
        return Layout(
            config.tree.depth, config.loss.similarity, self.tree.exact_hierarchy, "benchmark", config.index.dtype
        )


def share_left(corpus: Corpus, passages: np.ndarray, queries: np.ndarray) -> float:
    """Share of passages that the first bound of an index of them leaves, K asked for."""
    index = TreeIndex.build([passages], [f"d{row:08d}" for row in range(len(passages))], corpus.layout)
    return float(np.mean([found.remained for found in index.search(queries, K, certify=True)[2]])) / len(passages)


def fitting_mixture(corpus: Corpus, queries: np.ndarray) -> tuple[float, float, float]:
    """The t whose made passages prune like the real ones, and the two shares left."""
    count = min(20_000, len(corpus.passages))
    real = share_left(corpus, corpus.routed(corpus.passages[:count]), queries)
    low, high = 0.0, 2.0
    for _ in range(7):
        t = (low + high) / 2
        made = share_left(corpus, corpus.routed(np.concatenate(list(corpus.made(count, t, seed=1)))), queries)
        if abs(made / real - 1) < 0.1:
            break
        low, high = (t, high) if made < real else (low, t)
    return t, real, made

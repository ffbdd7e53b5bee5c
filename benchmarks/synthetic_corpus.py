"""Synthetic corpora of any size: mixed encodings that a model's tree prunes like real ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import typer

from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset, open_encoded_dataset
from retreever.index import Layout, TreeIndex
from retreever.model import RoutingTree
from retreever.system.workspace import Workspace
from retreever.trained_tree import load_model

TOP_K = 10
PASSAGES_PER_CHUNK = 8_192


@dataclass(frozen=True)
class SyntheticCorpus:
    """Encodings of passages and of queries, and the tree that routes both."""

    tree: RoutingTree
    config: Config
    passages: np.ndarray
    queries: np.ndarray
    texts: list[str]
    query_texts: list[str]

    @classmethod
    def open(cls, model: Path, workspace: Workspace, queries: int) -> "SyntheticCorpus":
        """Open a trained tree with the pooled encodings of its data set's passages and of some test queries."""
        tree, config = load_model(model)
        if config.tree.split == "cross_attention":
            raise typer.BadParameter("synthetic corpora are pooled encodings; name a tree with a linear or mlp split")
        data: EncodedDataset = open_encoded_dataset(config, workspace)
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

    def generate(self, count: int, t: float, seed: int = 0) -> Iterator[np.ndarray]:
        """Yield chunks of synthetic encodings: a + t (b - c) of three random passages, scaled to length one."""
        draw = np.random.default_rng(seed)
        for start in range(0, count, PASSAGES_PER_CHUNK):
            a, b, c = self.passages[draw.integers(len(self.passages), size=(3, min(PASSAGES_PER_CHUNK, count - start)))]
            mixed = a + np.float32(t) * (b - c)
            yield mixed / np.linalg.norm(mixed, axis=1, keepdims=True)

    def drop_lexical_features(self, encodings: np.ndarray) -> np.ndarray:
        """The encoder's part of the encodings, which the baselines search: without the lexical features after it."""
        if not self.config.encoder.words:
            return encodings
        own = encodings[:, : encodings.shape[1] // 2]
        return own / np.linalg.norm(own, axis=1, keepdims=True)

    def route(self, encodings: np.ndarray) -> np.ndarray:
        """Node probabilities (texts, nodes), in heap order."""
        with torch.inference_mode():
            return self.tree(torch.from_numpy(encodings)).float().exp().numpy()

    @property
    def layout(self) -> Layout:
        """Layout of an index of this tree."""
        config = self.config
        return Layout(
            config.tree.depth, config.loss.similarity, self.tree.exact_hierarchy, "benchmark", config.index.dtype
        )


def measure_surviving_share(corpus: SyntheticCorpus, passages: np.ndarray, queries: np.ndarray) -> float:
    """Share of passages that survive the first bound of an index of them, in searches for `TOP_K`."""
    index = TreeIndex.build([passages], [f"d{row:08d}" for row in range(len(passages))], corpus.layout)
    return float(np.mean([found.survived for found in index.search(queries, TOP_K, certify=True)[2]])) / len(passages)


def fit_mixture_weight(corpus: SyntheticCorpus, queries: np.ndarray) -> tuple[float, float, float]:
    """Find the t whose synthetic passages prune like real ones; returns t and both surviving shares, real first."""
    count = min(20_000, len(corpus.passages))
    real = measure_surviving_share(corpus, corpus.route(corpus.passages[:count]), queries)
    low, high = 0.0, 2.0
    for _ in range(7):
        t = (low + high) / 2
        synthetic = measure_surviving_share(
            corpus, corpus.route(np.concatenate(list(corpus.generate(count, t, seed=1)))), queries
        )
        if abs(synthetic / real - 1) < 0.1:
            break
        low, high = (t, high) if synthetic < real else (low, t)
    return t, real, synthetic

"""Trees clustered from passages, not learned from pairs: recursive splits, and three searches.

    greedy       one leaf, the likeliest child at each split; its passages by cosine
    beam b       the b likeliest leaves; their passages by cosine
    2^d leaves   the probabilities of the nodes of level d, products of the splits' probabilities along the path,
                 compared as a routing tree's are

A subclass defines how a node is split. `fit` chooses on dev the temperature of the odds and the similarity of
probabilities. All splits of a level, and all queries, are computed at once.
"""

from abc import ABC, abstractmethod
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from jaxtyping import Float, Int

from retreever.baselines import fitted_files
from retreever.baselines.baseline import (
    BYTES_PER_FLOAT32,
    MISSING_ROW,
    Form,
    Ranking,
    l2_normalize,
    read_dev_judgements,
)
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.evaluation.metrics import evaluate_rankings
from retreever.evaluation.ranking import SimilarityName, top_k
from retreever.system.progress import Track, track_silently

TEXTS_PER_ROUTING_BATCH = 4096
TUNING_QUERIES = 500  # dev queries that `fit` compares settings on
TUNED_SIMILARITIES: tuple[SimilarityName, ...] = ("ntvd", "bhattacharyya")


class ClusteredTree(ABC):
    """A binary tree over the passages of the data that it is fitted on.

    Args:
        depth: levels below the root.
        seed: of the initial splits.

    Attributes:
        temperature: divides the log-odds of the splits; chosen by `fit`.
        similarity: of probability vectors; chosen by `fit`.
    """

    name: str
    depends: ClassVar[tuple[str, ...]] = ("tree.depth", "train.seed")
    temperatures: ClassVar[tuple[float, ...]]

    def __init__(self, depth: int = 10, seed: int = 0):
        self.depth, self.seed = depth, seed
        self.temperature: float = self.temperatures[0]
        self.similarity: SimilarityName = "ntvd"

    @classmethod
    def for_config(cls, config: Config) -> Self:
        """Make a tree as deep as a routing tree of this configuration."""
        return cls(config.tree.depth, config.train.seed)

    @property
    def forms(self) -> tuple[Form, ...]:
        """Levels 4, 6, 8, ... and the last in float32, then the searches of leaves."""
        levels = sorted({*range(4, self.depth + 1, 2), self.depth})
        searches = [Form(code="greedy"), Form(code="beam 8"), Form(code="beam 32")]
        return (*(Form(2**level) for level in levels), *searches)

    def fit(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Split the passages of `data`; choose temperature and similarity by dev NDCG@10 at the last level."""
        queries, relevant = read_dev_judgements(data)
        queries, relevant = queries[:TUNING_QUERIES], relevant[:TUNING_QUERIES]
        self._fit_splits(l2_normalize(data.passages.last_layer), track)
        found = {}
        grid = list(product(self.temperatures, TUNED_SIMILARITIES))
        for setting in track(grid, f"tuning {self.name}", total=len(grid)):
            self.temperature, self.similarity = setting
            self._route_passages(data)
            rows, _ = self.search(queries, 10, Form(2**self.depth))
            found[setting] = evaluate_rankings(rows, relevant)["ndcg_at_10"]
        self.temperature, self.similarity = max(found, key=found.__getitem__)
        self.index(data)

    def index(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Route the passages of `data`; `search` then takes rows of its queries."""
        self._route_passages(data)
        leaf = np.concatenate([self._beam_search(part, 1)[:, 0] for part in _split_into_batches(self._passages)])
        self._by_leaf = np.argsort(leaf, kind="stable")
        self._offsets = np.searchsorted(leaf[self._by_leaf], np.arange(2**self.depth + 1))

    def search(self, query_rows: Int[np.ndarray, " queries"], k: int, form: Form) -> Ranking:
        """Find passage rows and scores of the best k; greedy and beam search find only passages of their leaves."""
        queries = l2_normalize(self._queries[query_rows])
        if form.dims is None:
            breadth = 1 if form.code == "greedy" else int(form.code.split()[1])
            return self._search_leaves(queries, k, breadth)
        passages = _sum_leaves(self._leaves, form.dims)
        return top_k(_sum_leaves(self._probabilities(queries), form.dims), passages, k, self.similarity)

    def bytes_per_document(self, form: Form) -> float:
        """Bytes of a float32 for each node of the level; or of the encoding and its entry in the list of a leaf."""
        return BYTES_PER_FLOAT32 * (form.dims or self._passages.shape[1] + 1)

    def save(self, folder: Path) -> None:
        """Write splits and settings to `folder`."""
        settings = {"depth": self.depth, "temperature": self.temperature, "similarity": self.similarity}
        fitted_files.save_fitted_files(folder, self.name, settings, self._arrays())

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, instead of `fit`.

        Raises:
            BundleError: a file is missing or damaged, or the folder holds another baseline.
        """
        settings, arrays = fitted_files.load_fitted_files(folder, self.name)
        self.depth, self.temperature, self.similarity = (settings[k] for k in ("depth", "temperature", "similarity"))
        self._restore(arrays)

    @abstractmethod
    def _fit_splits(self, passages: Float[np.ndarray, "passages dim"], track: Track) -> None:
        """Find the splits, in heap order."""

    @abstractmethod
    def _odds(self, vectors: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n splits"]:
        """Log-odds of going left at every split, at temperature one."""

    @abstractmethod
    def _arrays(self) -> dict[str, np.ndarray]: ...

    @abstractmethod
    def _restore(self, arrays: dict[str, np.ndarray]) -> None: ...

    def _route_passages(self, data: EncodedDataset) -> None:
        """Store the probabilities of the passages."""
        self._queries, self._passages = data.queries.last_layer, l2_normalize(data.passages.last_layer)
        self._leaves = np.concatenate([self._probabilities(part) for part in _split_into_batches(self._passages)])

    def _probabilities(self, vectors: np.ndarray) -> Float[np.ndarray, "n leaves"]:
        """Probability of reaching each leaf."""
        odds = np.clip(self._odds(vectors) / self.temperature, -60, 60)
        left = 1 / (1 + np.exp(-odds))
        reached: Any = np.ones((len(vectors), 1), np.float32)
        for level in range(self.depth):
            share = left[:, 2**level - 1 : 2 ** (level + 1) - 1]
            reached = np.stack([reached * share, reached * (1 - share)], axis=2).reshape(len(vectors), -1)
        return np.asarray(reached, np.float32)

    def _beam_search(self, vectors: np.ndarray, breadth: int) -> Int[np.ndarray, "n beam"]:
        """Leaves that survive when only the `breadth` likeliest nodes of each level are expanded, likeliest first."""
        odds = np.clip(self._odds(vectors) / self.temperature, -60, 60)
        beam, scores = np.zeros((len(vectors), 1), np.int64), np.zeros((len(vectors), 1))
        for level in range(self.depth):
            at = np.take_along_axis(odds, beam + 2**level - 1, axis=1)
            beam = np.concatenate([2 * beam, 2 * beam + 1], axis=1)
            scores = np.concatenate([scores - np.logaddexp(0, -at), scores - np.logaddexp(0, at)], axis=1)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :breadth]
            beam, scores = np.take_along_axis(beam, order, axis=1), np.take_along_axis(scores, order, axis=1)
        return beam

    def _search_leaves(self, queries: np.ndarray, k: int, breadth: int) -> Ranking:
        rows = np.full((len(queries), k), MISSING_ROW, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for i, leaves in enumerate(self._beam_search(queries, breadth)):
            members = [self._by_leaf[self._offsets[leaf] : self._offsets[leaf + 1]] for leaf in leaves]
            found = np.sort(np.concatenate(members))
            cosines = self._passages[found] @ queries[i]
            order = np.argsort(-cosines, kind="stable")[:k]
            rows[i, : len(order)], scores[i, : len(order)] = found[order], cosines[order]
        return rows, scores


def _split_into_batches(vectors: np.ndarray) -> list[np.ndarray]:
    return np.array_split(vectors, max(1, -(-len(vectors) // TEXTS_PER_ROUTING_BATCH)))


def _sum_leaves(leaves: np.ndarray, nodes: int) -> np.ndarray:
    """Probabilities at a coarser level: sums of the leaves below each of its nodes."""
    return np.asarray(leaves.reshape(len(leaves), nodes, -1).sum(axis=2))

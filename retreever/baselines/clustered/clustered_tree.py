"""Trees that are clustered, not learned from pairs: recursive splits of the passages, and three ways to search them.

    greedy       down to one leaf; its passages by cosine
    beam b       down to the b likeliest leaves; their passages by cosine
    2^d leaves   the probabilities of the nodes of level d, products of the splits' odds along the path, compared like
                 a routing tree's

A subclass says how a node is split. The temperature of the odds, and which similarity ranks probabilities, are chosen
on dev. All splits of a level, and all queries, are worked on at once.
"""

from abc import ABC, abstractmethod
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from jaxtyping import Float, Int

from retreever.baselines import fitted_files
from retreever.baselines.baseline import BYTES, NOTHING, Form, Ranking, dev_judgements, normalized
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.evaluation.metrics import evaluate
from retreever.evaluation.ranking import Similarity, top_k
from retreever.system.progress import Track, silent

CHUNK = 4096  # texts routed at once
TUNED_ON = 500  # dev queries
SIMILARITIES: tuple[Similarity, ...] = ("ntvd", "bhattacharyya")


class Hierarchical(ABC):
    """A binary tree over the passages of the data it is fitted on.

    Args:
        depth: levels below the root.
        seed: draws the starts of the splits.

    Attributes:
        temperature, similarity: of probabilities and of their comparison; chosen by `fit`.
    """

    name: str
    depends: ClassVar[tuple[str, ...]] = ("tree.depth", "train.seed")
    temperatures: ClassVar[tuple[float, ...]]

    def __init__(self, depth: int = 10, seed: int = 0):
        self.depth, self.seed = depth, seed
        self.temperature: float = self.temperatures[0]
        self.similarity: Similarity = "ntvd"

    @classmethod
    def for_config(cls, config: Config) -> Self:
        """As deep as a tree of this configuration."""
        return cls(config.tree.depth, config.train.seed)

    @property
    def forms(self) -> tuple[Form, ...]:
        """Levels 4, 6, 8, ... and the last in float32, then searches of leaves."""
        levels = sorted({*range(4, self.depth + 1, 2), self.depth})
        searches = [Form(code="greedy"), Form(code="beam 8"), Form(code="beam 32")]
        return (*(Form(2**level) for level in levels), *searches)

    def fit(self, data: EncodedDataset, track: Track = silent) -> None:
        """Split the passages of `data`; choose temperature and similarity by dev NDCG@10 at the last level."""
        queries, relevant = dev_judgements(data)
        queries, relevant = queries[:TUNED_ON], relevant[:TUNED_ON]
        self._learn(normalized(data.passages.last), track)
        found = {}
        grid = list(product(self.temperatures, SIMILARITIES))
        for setting in track(grid, f"tuning {self.name}", total=len(grid)):
            self.temperature, self.similarity = setting
            self._route(data)
            rows, _ = self.search(queries, 10, Form(2**self.depth))
            found[setting] = evaluate(rows, relevant)["ndcg_at_10"]
        self.temperature, self.similarity = max(found, key=found.__getitem__)
        self.index(data)

    def index(self, data: EncodedDataset, track: Track = silent) -> None:
        """Route the passages of `data`, to be asked by its queries."""
        self._route(data)
        leaf = np.concatenate([self._beam(part, 1)[:, 0] for part in _parts(self._passages)])
        self._by_leaf = np.argsort(leaf, kind="stable")
        self._offsets = np.searchsorted(leaf[self._by_leaf], np.arange(2**self.depth + 1))

    def search(self, query_rows: Int[np.ndarray, " queries"], k: int, form: Form) -> Ranking:
        """Passage rows and scores of the best k; greedy and beam search find only what their leaves hold."""
        queries = normalized(self._queries[query_rows])
        if form.dims is None:
            breadth = 1 if form.code == "greedy" else int(form.code.split()[1])
            return self._in_leaves(queries, k, breadth)
        passages = _merged(self._leaves, form.dims)
        return top_k(_merged(self._probabilities(queries), form.dims), passages, k, self.similarity)

    def bytes_per_document(self, form: Form) -> float:
        """A float32 for each node of the level; or the encoding, with its row in the list of its leaf."""
        return BYTES * (form.dims or self._passages.shape[1] + 1)

    def save(self, folder: Path) -> None:
        """Write splits and settings to `folder`."""
        settings = {"depth": self.depth, "temperature": self.temperature, "similarity": self.similarity}
        fitted_files.save(folder, self.name, settings, self._arrays())

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote.

        Raises:
            BundleError: a file is missing or damaged, or the folder holds another rival.
        """
        settings, arrays = fitted_files.load(folder, self.name)
        self.depth, self.temperature, self.similarity = (settings[k] for k in ("depth", "temperature", "similarity"))
        self._restore(arrays)

    @abstractmethod
    def _learn(self, passages: Float[np.ndarray, "passages dim"], track: Track) -> None:
        """Find the splits, in heap order."""

    @abstractmethod
    def _odds(self, vectors: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n splits"]:
        """Log-odds of going left at every split, at temperature one."""

    @abstractmethod
    def _arrays(self) -> dict[str, np.ndarray]: ...

    @abstractmethod
    def _restore(self, arrays: dict[str, np.ndarray]) -> None: ...

    def _route(self, data: EncodedDataset) -> None:
        """Probabilities of the passages."""
        self._queries, self._passages = data.queries.last, normalized(data.passages.last)
        self._leaves = np.concatenate([self._probabilities(part) for part in _parts(self._passages)])

    def _probabilities(self, vectors: np.ndarray) -> Float[np.ndarray, "n leaves"]:
        """Of reaching each leaf."""
        odds = np.clip(self._odds(vectors) / self.temperature, -60, 60)
        left = 1 / (1 + np.exp(-odds))
        reached: Any = np.ones((len(vectors), 1), np.float32)
        for level in range(self.depth):
            share = left[:, 2**level - 1 : 2 ** (level + 1) - 1]
            reached = np.stack([reached * share, reached * (1 - share)], axis=2).reshape(len(vectors), -1)
        return np.asarray(reached, np.float32)

    def _beam(self, vectors: np.ndarray, breadth: int) -> Int[np.ndarray, "n beam"]:
        """The leaves that are left when the `breadth` likeliest nodes of each level go on, likeliest first."""
        odds = np.clip(self._odds(vectors) / self.temperature, -60, 60)
        kept, scores = np.zeros((len(vectors), 1), np.int64), np.zeros((len(vectors), 1))
        for level in range(self.depth):
            at = np.take_along_axis(odds, kept + 2**level - 1, axis=1)
            kept = np.concatenate([2 * kept, 2 * kept + 1], axis=1)
            scores = np.concatenate([scores - np.logaddexp(0, -at), scores - np.logaddexp(0, at)], axis=1)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :breadth]
            kept, scores = np.take_along_axis(kept, order, axis=1), np.take_along_axis(scores, order, axis=1)
        return kept

    def _in_leaves(self, queries: np.ndarray, k: int, breadth: int) -> Ranking:
        rows = np.full((len(queries), k), NOTHING, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for i, leaves in enumerate(self._beam(queries, breadth)):
            held = [self._by_leaf[self._offsets[leaf] : self._offsets[leaf + 1]] for leaf in leaves]
            found = np.sort(np.concatenate(held))
            cosines = self._passages[found] @ queries[i]
            order = np.argsort(-cosines, kind="stable")[:k]
            rows[i, : len(order)], scores[i, : len(order)] = found[order], cosines[order]
        return rows, scores


def _parts(vectors: np.ndarray) -> list[np.ndarray]:
    return np.array_split(vectors, max(1, -(-len(vectors) // CHUNK)))


def _merged(leaves: np.ndarray, nodes: int) -> np.ndarray:
    """Probabilities of a coarser level: sums of the leaves below each of its nodes."""
    return np.asarray(leaves.reshape(len(leaves), nodes, -1).sum(axis=2))

"""A trained tree as one of the compared: its levels, as probabilities, in bytes, by a product quantiser, and as served.

Under Bhattacharyya a text is the vector of the square roots of its probabilities, which has length one, so that it is
held and ranked exactly as the rivals' vectors are. Under nTVD the probabilities themselves are held. `certified` is the
index of a bundle, which finds the exact best of the finest level without looking at all of it.
"""

from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Float, Int

from retreever.baselines.baseline import PLAIN, Form, Ranking
from retreever.baselines.dense.dense_baseline import Dense
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset, Encodings
from retreever.evaluation.ranking import top_k
from retreever.index import Layout, TreeIndex
from retreever.model import RoutingTree, default_levels
from retreever.system.progress import Track, silent
from retreever.trained_tree import chunks, load_model, routed

NAME = "retreever"
QUANTISED = (64, 256)  # bytes of product quantisers, tried where a level has four times as many nodes
CERTIFIED = "certified"
CHUNK = 8_192  # passages indexed at once


class Contender(Dense):
    """A tree that ranks at each of the levels that are reported."""

    name = NAME

    def __init__(self, tree: RoutingTree, config: Config):
        self.tree, self.config = tree, config
        self.levels = default_levels(tree.tree.depth)
        self._last = 2**tree.tree.depth
        self._plain: dict[Form, np.ndarray] = {}
        self._served: TreeIndex | None = None

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The tree of a model folder or of a bundle.

        Raises:
            BundleError: a file is missing, damaged, or not of this format.
        """
        return cls(*load_model(folder))

    @property
    def forms(self) -> tuple[Form, ...]:
        """Every level in float32 and in bytes; fine ones in a quarter of that or less, too; the finest as served."""
        sized = [Form(2**level, code) for code in (PLAIN, "int8") for level in self.levels]
        fewer = [Form(2**level, f"pq{size}") for level in self.levels for size in QUANTISED if 4 * size <= 2**level]
        return (*sized, *(fewer if self._inner else []), Form(self._last, CERTIFIED))

    def index(self, data: EncodedDataset, track: Track = silent) -> None:
        """Route the passages of `data`, to be asked by its queries."""
        routing = routed(self.tree, self.config, data.passages)
        chunked = track(routing, "routing passages", total=chunks(self.config, len(data.passages)))
        self._hold(np.concatenate(list(chunked)), data.queries)
        self._plain = {}
        self._data, self._served = data, None

    def search(self, query_rows: Int[np.ndarray, " queries"], k: int, form: Form) -> Ranking:
        """Passage rows and similarities of the best k, equal ones by row."""
        if form.code == CERTIFIED:
            return self._index().search(self._asked(query_rows), k, threads=1)
        if self._inner:
            return super().search(query_rows, k, form)
        queries = self._sized(self._asked(query_rows), form)
        return top_k(queries, self._decoded(form), k, "ntvd")

    def bytes_per_document(self, form: Form) -> float:
        """Of the code of one vector; of the whole index, ids apart, for the one that is served."""
        if form.code == CERTIFIED:
            return float(self._index().stats()["bytes_per_document"])
        return super().bytes_per_document(form)

    def _index(self) -> TreeIndex:
        """The index that `retreever index` would write, in memory; passages are numbered by row."""
        if self._served is None:
            config, tree = self.config, self.tree
            layout = Layout(
                config.tree.depth, config.loss.similarity, tree.exact_hierarchy, "in memory", config.index.dtype
            )
            ids = [passage.id for passage in self._data.dataset.corpus]
            parts = (self._passages[start : start + CHUNK] for start in range(0, len(ids), CHUNK))
            self._served = TreeIndex.build(parts, ids, layout)
        return self._served

    @property
    def _inner(self) -> bool:
        return self.config.loss.similarity == "bhattacharyya"

    def _vectors(self, encodings: Encodings, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n nodes"]:
        """Probabilities of all nodes."""
        return np.concatenate(list(routed(self.tree, self.config, encodings, rows)))

    def _sized(self, vectors: Float[np.ndarray, "n nodes"], form: Form) -> Float[np.ndarray, "n dims"]:
        level = vectors[:, self.tree.tree.level(int(form.dims or self._last).bit_length() - 1)]
        return np.sqrt(level) if self._inner else np.ascontiguousarray(level)

    def _decoded(self, form: Form) -> Float[np.ndarray, "passages dims"]:
        """What is held for nTVD, decoded once."""
        if form not in self._plain:
            self._plain = {form: self._holding(form).decoded()}
        return self._plain[form]

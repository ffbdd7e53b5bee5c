"""A trained tree as a ranker: its levels in float32, in bytes, by product quantiser, and as served.

Under Bhattacharyya a text is the vector of the square roots of its probabilities. That vector has length one, so it is
stored and ranked exactly as the baselines' vectors are. Under nTVD the probabilities themselves are stored. `certified`
is the index of a bundle, which finds the exact best passages of the finest level without scoring them all.
"""

from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Float, Int

from retreever.baselines.baseline import FLOAT32_CODE, Form, Ranking, measure_deviation
from retreever.baselines.dense.dense_baseline import SPREAD_SAMPLE, DenseRanker
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.encoding.text_encodings import Encodings
from retreever.evaluation.ranking import sum_of_min, top_k
from retreever.index import Layout, TreeIndex
from retreever.model import RoutingTree, default_levels
from retreever.system.progress import Track, track_silently
from retreever.trained_tree import count_chunks, load_model, route_encodings

TREE_SYSTEM = "retreever"
TREE_PQ_BYTES = (64, 256)  # sizes of product quantisers, tried where a level has four times as many nodes
CERTIFIED_CODE = "certified"
PASSAGES_PER_INDEX_CHUNK = 8_192


class TreeRanker(DenseRanker):
    """A tree that ranks at each of the reported levels."""

    name = TREE_SYSTEM

    def __init__(self, tree: RoutingTree, config: Config):
        self.tree, self.config = tree, config
        self.levels = default_levels(tree.tree.depth)
        self._last = 2**tree.tree.depth
        self._decoded_by_form: dict[Form, np.ndarray] = {}
        self._served_index: TreeIndex | None = None

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the tree of a model folder or of a bundle.

        Raises:
            BundleError: a file is missing, damaged, or not of this format.
        """
        return cls(*load_model(folder))

    @property
    def forms(self) -> tuple[Form, ...]:
        """Every level in float32 and int8; fine levels also by product quantisers; the finest level as served."""
        equal_sizes = [Form(2**level, code) for code in (FLOAT32_CODE, "int8") for level in self.levels]
        quantized = [
            Form(2**level, f"pq{size}") for level in self.levels for size in TREE_PQ_BYTES if 4 * size <= 2**level
        ]
        return (*equal_sizes, *(quantized if self._is_inner_product else []), Form(self._last, CERTIFIED_CODE))

    def index(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Route the passages of `data`; `search` then takes rows of its queries."""
        routing = route_encodings(self.tree, self.config, data.passages)
        chunked = track(routing, "routing passages", total=count_chunks(self.config, len(data.passages)))
        self._index_vectors(np.concatenate(list(chunked)), data.queries)
        self._decoded_by_form = {}
        self._data, self._served_index = data, None

    def search(self, query_rows: Int[np.ndarray, " queries"], k: int, form: Form) -> Ranking:
        """Find passage rows and similarities of the best k; equal similarities by row."""
        if form.code == CERTIFIED_CODE:
            return self._certified_index().search(self._query_vectors(query_rows), k, threads=1)
        if self._is_inner_product:
            return super().search(query_rows, k, form)
        queries = self._convert_to_form(self._query_vectors(query_rows), form)
        return top_k(queries, self._decode_passages(form), k, "ntvd")

    def score_all(self, query_rows: Int[np.ndarray, " queries"], form: Form) -> Float[np.ndarray, "queries passages"]:
        """Score every passage for every query at a level; not for the served form, which scores only some."""
        if self._is_inner_product:
            return super().score_all(query_rows, form)
        queries = self._convert_to_form(self._query_vectors(query_rows), form)
        return _score_by_ntvd(queries, self._decode_passages(form))

    def measure_scale(self, form: Form) -> float:
        """Unit of the similarities: the standard deviation of a passage's similarities to the others."""
        if self._is_inner_product:
            return super().measure_scale(form)
        rows = np.linspace(0, len(self._passages) - 1, min(len(self._passages), SPREAD_SAMPLE)).astype(np.int64)
        sample = self._convert_to_form(self._passages[rows], form)
        return measure_deviation(_score_by_ntvd(sample, sample))

    def bytes_per_document(self, form: Form) -> float:
        """Bytes of the code of one vector; for the served form, of the whole index without ids, per passage."""
        if form.code == CERTIFIED_CODE:
            return float(self._certified_index().stats()["bytes_per_document"])
        return super().bytes_per_document(form)

    def _certified_index(self) -> TreeIndex:
        """Build in memory the index that `retreever index` would write; a passage's number is its row."""
        if self._served_index is None:
            config, tree = self.config, self.tree
            layout = Layout(
                config.tree.depth, config.loss.similarity, tree.exact_hierarchy, "in memory", config.index.dtype
            )
            ids = [passage.id for passage in self._data.dataset.corpus]
            parts = (
                self._passages[start : start + PASSAGES_PER_INDEX_CHUNK]
                for start in range(0, len(ids), PASSAGES_PER_INDEX_CHUNK)
            )
            self._served_index = TreeIndex.build(parts, ids, layout)
        return self._served_index

    @property
    def _is_inner_product(self) -> bool:
        return self.config.loss.similarity == "bhattacharyya"

    def _compute_vectors(self, encodings: Encodings, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n nodes"]:
        """Probabilities of all nodes."""
        return np.concatenate(list(route_encodings(self.tree, self.config, encodings, rows)))

    def _convert_to_form(self, vectors: Float[np.ndarray, "n nodes"], form: Form) -> Float[np.ndarray, "n dims"]:
        level = vectors[:, self.tree.tree.level(int(form.dims or self._last).bit_length() - 1)]
        return np.sqrt(level) if self._is_inner_product else np.ascontiguousarray(level)

    def _decode_passages(self, form: Form) -> Float[np.ndarray, "passages dims"]:
        """Vectors that a form's codes decode to, for nTVD; decoded once."""
        if form not in self._decoded_by_form:
            self._decoded_by_form = {form: self._passage_codes(form).decode()}
        return self._decoded_by_form[form]


def _score_by_ntvd(
    queries: Float[np.ndarray, "queries nodes"], passages: Float[np.ndarray, "passages nodes"]
) -> Float[np.ndarray, "queries passages"]:
    scores = np.empty((len(queries), len(passages)), np.float32)
    sum_of_min(np.ascontiguousarray(queries), np.ascontiguousarray(passages), scores)
    return scores - 1

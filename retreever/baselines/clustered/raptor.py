"""RAPTOR (Sarthi 2024): a tree of summaries over the passages, searched by cosine.

Passages are clustered (`raptor_clusters.py`), each cluster is summarised (`raptor_summaries.py`), and summaries are
encoded and clustered in turn, up to five layers. The chunks at the bottom are the passages as they are, so that all
baselines rank the same texts. A retrieved summary is replaced by the passages below it, ranked by their own cosines.

    collapsed   all nodes, of every layer, by cosine
    layers      the best five nodes of the top layer, the best five of their children, and so on down

Departure, for speed: one matrix product scores all nodes, instead of a loop over nodes. `raptor_clusters.py` lists
those of the clustering.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float, Int

from retreever.baselines import fitted_files
from retreever.baselines.baseline import BYTES_PER_FLOAT32, MISSING_ROW, Form, Ranking, l2_normalize
from retreever.baselines.clustered.raptor_clusters import Reduction, find_soft_clusters, reduce_by_umap
from retreever.baselines.clustered.raptor_summaries import ExtractiveSummarizer, Summarizer
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.system.progress import Track, track_silently

MAX_LAYERS = 5
MAX_TOP_LAYER_NODES = 11  # a layer of at most so many nodes is the top
TOKENS_PER_WORD = 4 / 3  # about
MAX_CHUNK_TOKENS = 100  # length of the paper's chunks: tokens that a text counts at most
NODES_PER_LAYER = 5  # nodes that the search by layers expands
SummaryEncoder = Callable[[Sequence[str]], Float[np.ndarray, "texts dim"]]
SummarizerFactory = Callable[[Sequence[str]], Summarizer]


class Raptor:
    """A summary tree.

    Args:
        encode: turns summaries into vectors, as the passages were encoded.
        summarizer: makes a summariser from the texts of the corpus.
        reduce: maps vectors to the few dimensions in which they are clustered.
        seed: of `reduce` and of the mixtures.
    """

    name = "raptor"
    depends: ClassVar[tuple[str, ...]] = ()  # one seed alone: a tree of summaries takes minutes
    forms = (Form(code="collapsed"), Form(code="layers"))

    def __init__(
        self,
        encode: SummaryEncoder,
        summarizer: SummarizerFactory = ExtractiveSummarizer,
        reduce: Reduction = reduce_by_umap,
        seed: int = 0,
    ):
        self._encode, self._summarizer, self._reduce, self.seed = encode, summarizer, reduce, seed
        self._digest = ""

    @classmethod
    def for_config(cls, config: Config, summarizer: SummarizerFactory = ExtractiveSummarizer) -> Self:
        """Make the baseline with the encoder of the configuration, loaded when there are summaries to encode."""

        def encode(texts: Sequence[str]) -> np.ndarray:
            from retreever.encoding.encoder import Encoder

            return Encoder.load(config.encoder.model_copy(update={"words": 0.0})).encode_pooled(texts, "passage")

        return cls(encode, summarizer)

    def fit(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Build the tree; nothing is learned from pairs."""
        self.index(data, track)

    def index(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Build the tree over the passages of `data`, unless the present tree is already theirs."""
        self._queries = data.queries.last_layer
        leaves = l2_normalize(data.passages.last_layer)
        if self._digest != data.dataset.digest:
            self._build(leaves, data.dataset.passage_texts(), track)
            self._digest = data.dataset.digest
        self._nodes = np.concatenate([leaves, self._summaries])
        self._passages = len(leaves)
        self._below = [self._passages_below(node) for node in range(len(leaves), len(self._nodes))]

    def search(self, query_rows: Int[np.ndarray, " queries"], k: int, form: Form) -> Ranking:
        """Find passage rows in the order in which they, or summaries above them, are retrieved; score = -rank."""
        queries = l2_normalize(self._queries[query_rows])
        rows = np.full((len(queries), k), MISSING_ROW, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for i, query in enumerate(queries):
            cosines = self._nodes @ query
            groups = self._search_collapsed(cosines, k) if form.code == "collapsed" else self._search_by_layers(cosines)
            found = _take_first(groups, cosines, k)
            rows[i, : len(found)] = found
            scores[i, : len(found)] = -np.arange(len(found))  # not cosines: a summary raises what is below it
        return rows, scores

    def bytes_per_document(self, form: Form) -> float:
        """Bytes of all vectors, of passages and summaries, and of the lists of children, per passage."""
        children = self._children.nbytes + self._offsets.nbytes
        return (BYTES_PER_FLOAT32 * self._nodes.size + children) / self._passages

    def save(self, folder: Path) -> None:
        """Write the tree, without its passages, to `folder`."""
        names = ("summaries", "children", "offsets", "layers")
        arrays = {name: getattr(self, f"_{name}") for name in names}
        fitted_files.save_fitted_files(folder, self.name, {"digest": self._digest, "texts": self.texts}, arrays)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, instead of `fit`.

        Raises:
            BundleError: a file is missing or damaged, or the folder holds another baseline.
        """
        settings, arrays = fitted_files.load_fitted_files(folder, self.name)
        self._digest, self.texts = settings["digest"], settings["texts"]
        self._summaries, self._children = arrays["summaries"], arrays["children"]
        self._offsets, self._layers = arrays["offsets"], arrays["layers"]

    def _build(self, leaves: np.ndarray, texts: list[str], track: Track) -> None:
        summarize = self._summarizer(texts)
        vectors, all_texts = [leaves], list(texts)
        children: list[np.ndarray] = []
        layer, first = leaves, 0
        sizes: list[int] = []
        while len(layer) > MAX_TOP_LAYER_NODES and len(sizes) < MAX_LAYERS:
            tokens = np.array(
                [min(len(text.split()) * TOKENS_PER_WORD, MAX_CHUNK_TOKENS) for text in all_texts[first:]]
            )
            clusters = find_soft_clusters(layer, tokens, self.seed, self._reduce, track)
            if len(clusters) >= len(layer):
                break
            label = f"summarising raptor, layer {len(sizes) + 1}"
            written = [summarize([all_texts[first + row] for row in c]) for c in track(clusters, label, len(clusters))]
            children += [first + cluster for cluster in clusters]
            first = len(all_texts)
            layer = l2_normalize(self._encode(written))
            vectors.append(layer)
            all_texts += written
            sizes.append(len(layer))
        self.texts = all_texts[len(texts) :]
        self._summaries = np.concatenate([leaves[:0], *vectors[1:]])
        self._children = np.concatenate([np.empty(0, np.int64), *children])
        self._offsets = np.cumsum([0, *map(len, children)])
        self._layers = np.array(sizes, np.int64)

    def _passages_below(self, node: int) -> np.ndarray:
        """Rows of all passages below a summary."""
        below = self._children[self._offsets[node - self._passages] : self._offsets[node - self._passages + 1]]
        while (below >= self._passages).any():
            summaries = below[below >= self._passages] - self._passages
            parts = [self._children[self._offsets[s] : self._offsets[s + 1]] for s in summaries]
            below = np.unique(np.concatenate([below[below < self._passages], *parts]))
        return np.unique(below)

    def _search_collapsed(self, cosines: np.ndarray, k: int) -> list[np.ndarray]:
        best = np.argpartition(-cosines, min(k, len(cosines) - 1))[: k + 1]
        return [self._passages_of(node) for node in best[np.argsort(-cosines[best], kind="stable")]]

    def _search_by_layers(self, cosines: np.ndarray) -> list[np.ndarray]:
        """Passages below the chosen nodes, the lowest layer first."""
        starts = self._passages + np.cumsum(self._layers) - self._layers
        nodes = np.arange(starts[-1], len(cosines)) if len(starts) else np.arange(len(cosines))
        chosen = []
        for _ in range(len(self._layers)):
            best = nodes[np.argsort(-cosines[nodes], kind="stable")[:NODES_PER_LAYER]]
            chosen.append(np.unique(np.concatenate([self._passages_of(node) for node in best])))
            spans = [slice(*self._offsets[node - self._passages : node - self._passages + 2]) for node in best]
            nodes = np.unique(np.concatenate([self._children[span] for span in spans]))
        return [nodes, *chosen[::-1]]

    def _passages_of(self, node: int) -> np.ndarray:
        return np.array([node]) if node < self._passages else self._below[node - self._passages]


def _take_first(groups: list[np.ndarray], cosines: np.ndarray, k: int) -> np.ndarray:
    """First k passages of the groups in turn; by cosine within a group, without repeats."""
    seen: dict[int, None] = {}
    for group in groups:
        seen |= dict.fromkeys(group[np.argsort(-cosines[group], kind="stable")].tolist())
        if len(seen) >= k:
            break
    return np.array(list(seen)[:k], np.int64)

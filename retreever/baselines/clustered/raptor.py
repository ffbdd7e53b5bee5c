"""RAPTOR (Sarthi 2024): a tree of summaries over the passages, searched by cosine.

Passages are clustered (`soft_clusters.py`), each cluster is summarised (`summaries.py`), summaries are encoded and
clustered in turn, up to five layers. The chunks at the bottom are the passages as they are, so that all rivals rank the
same things. A retrieved summary stands for the passages below it, ranked by their own cosines.

    collapsed   all nodes, of every layer, by cosine
    layers      the best five nodes of the top layer, the best five of their children, and so on down

A departure, for speed: all nodes are scored by one matrix product instead of a loop over nodes. For those of the
clustering see `soft_clusters.py`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float, Int

from retreever.baselines import fitted_files
from retreever.baselines.baseline import BYTES, NOTHING, Form, Ranking, normalized
from retreever.baselines.clustered.raptor_clusters import Reduce, by_umap, soft_clusters
from retreever.baselines.clustered.raptor_summaries import Extractive, Summarizer
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.system.progress import Track, silent

LAYERS = 5
FEWEST = 11  # nodes of a layer from which no further one is made
TOKENS = 4 / 3  # of a word, about
CHUNK = 100  # tokens of a text that count: the method's chunks
BREADTH = 5  # nodes that go on in a layer
Encode = Callable[[Sequence[str]], Float[np.ndarray, "texts dim"]]
Make = Callable[[Sequence[str]], Summarizer]


class Raptor:
    """A summary tree.

    Args:
        encode: from summaries to vectors, as the passages were encoded.
        summarizer: from the texts of the corpus to a summariser.
        reduce: from vectors to the few dimensions in which they are clustered.
        seed: of that and of the mixtures.
    """

    name = "raptor"
    depends: ClassVar[tuple[str, ...]] = ()  # one seed for all: a tree of summaries takes minutes
    forms = (Form(code="collapsed"), Form(code="layers"))

    def __init__(self, encode: Encode, summarizer: Make = Extractive, reduce: Reduce = by_umap, seed: int = 0):
        self._encode, self._summarizer, self._reduce, self.seed = encode, summarizer, reduce, seed
        self._digest = ""

    @classmethod
    def for_config(cls, config: Config, summarizer: Make = Extractive) -> Self:
        """With the encoder of the configuration, loaded when there are summaries to encode."""

        def encode(texts: Sequence[str]) -> np.ndarray:
            from retreever.encoding.encoder import Encoder

            return Encoder.load(config.encoder.model_copy(update={"words": 0.0})).pooled(texts, "passage")

        return cls(encode, summarizer)

    def fit(self, data: EncodedDataset, track: Track = silent) -> None:
        """Build the tree; nothing is learned from pairs."""
        self.index(data, track)

    def index(self, data: EncodedDataset, track: Track = silent) -> None:
        """Build the tree over the passages of `data`, unless the one at hand is theirs."""
        self._queries = data.queries.last
        leaves = normalized(data.passages.last)
        if self._digest != data.dataset.digest:
            self._build(leaves, data.dataset.passage_texts(), track)
            self._digest = data.dataset.digest
        self._nodes = np.concatenate([leaves, self._summaries])
        self._passages = len(leaves)
        self._below = [self._passages_below(node) for node in range(len(leaves), len(self._nodes))]

    def search(self, query_rows: Int[np.ndarray, " queries"], k: int, form: Form) -> Ranking:
        """Passage rows and their cosines, in the order in which the nodes above them, or they, were retrieved."""
        queries = normalized(self._queries[query_rows])
        rows = np.full((len(queries), k), NOTHING, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for i, query in enumerate(queries):
            cosines = self._nodes @ query
            groups = self._collapsed(cosines, k) if form.code == "collapsed" else self._by_layers(cosines)
            found = _first(groups, cosines, k)
            rows[i, : len(found)] = found
            scores[i, : len(found)] = -np.arange(len(found))  # the order counts: summaries raise what lies below them
        return rows, scores

    def bytes_per_document(self, form: Form) -> float:
        """Vectors of passages and summaries, and the lists of children, over all passages."""
        children = self._children.nbytes + self._offsets.nbytes
        return (BYTES * self._nodes.size + children) / self._passages

    def save(self, folder: Path) -> None:
        """Write the tree without its passages to `folder`."""
        names = ("summaries", "children", "offsets", "layers")
        arrays = {name: getattr(self, f"_{name}") for name in names}
        fitted_files.save(folder, self.name, {"digest": self._digest, "texts": self.texts}, arrays)

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote.

        Raises:
            BundleError: a file is missing or damaged, or the folder holds another rival.
        """
        settings, arrays = fitted_files.load(folder, self.name)
        self._digest, self.texts = settings["digest"], settings["texts"]
        self._summaries, self._children = arrays["summaries"], arrays["children"]
        self._offsets, self._layers = arrays["offsets"], arrays["layers"]

    def _build(self, leaves: np.ndarray, texts: list[str], track: Track) -> None:
        summarize = self._summarizer(texts)
        vectors, all_texts = [leaves], list(texts)
        children: list[np.ndarray] = []
        layer, first = leaves, 0
        sizes: list[int] = []
        while len(layer) > FEWEST and len(sizes) < LAYERS:
            tokens = np.array([min(len(text.split()) * TOKENS, CHUNK) for text in all_texts[first:]])
            clusters = soft_clusters(layer, tokens, self.seed, self._reduce, track)
            if len(clusters) >= len(layer):
                break
            label = f"summarising raptor, layer {len(sizes) + 1}"
            written = [summarize([all_texts[first + row] for row in c]) for c in track(clusters, label, len(clusters))]
            children += [first + cluster for cluster in clusters]
            first = len(all_texts)
            layer = normalized(self._encode(written))
            vectors.append(layer)
            all_texts += written
            sizes.append(len(layer))
        self.texts = all_texts[len(texts) :]
        self._summaries = np.concatenate([leaves[:0], *vectors[1:]])
        self._children = np.concatenate([np.empty(0, np.int64), *children])
        self._offsets = np.cumsum([0, *map(len, children)])
        self._layers = np.array(sizes, np.int64)

    def _passages_below(self, node: int) -> np.ndarray:
        """Rows of the passages that a summary stands for; children come before their parents."""
        below = self._children[self._offsets[node - self._passages] : self._offsets[node - self._passages + 1]]
        while (below >= self._passages).any():
            summaries = below[below >= self._passages] - self._passages
            parts = [self._children[self._offsets[s] : self._offsets[s + 1]] for s in summaries]
            below = np.unique(np.concatenate([below[below < self._passages], *parts]))
        return np.unique(below)

    def _collapsed(self, cosines: np.ndarray, k: int) -> list[np.ndarray]:
        best = np.argpartition(-cosines, min(k, len(cosines) - 1))[: k + 1]
        return [self._standing_for(node) for node in best[np.argsort(-cosines[best], kind="stable")]]

    def _by_layers(self, cosines: np.ndarray) -> list[np.ndarray]:
        """What the chosen nodes stand for, the lowest layer first."""
        starts = self._passages + np.cumsum(self._layers) - self._layers
        nodes = np.arange(starts[-1], len(cosines)) if len(starts) else np.arange(len(cosines))
        chosen = []
        for _ in range(len(self._layers)):
            best = nodes[np.argsort(-cosines[nodes], kind="stable")[:BREADTH]]
            chosen.append(np.unique(np.concatenate([self._standing_for(node) for node in best])))
            spans = [slice(*self._offsets[node - self._passages : node - self._passages + 2]) for node in best]
            nodes = np.unique(np.concatenate([self._children[span] for span in spans]))
        return [nodes, *chosen[::-1]]

    def _standing_for(self, node: int) -> np.ndarray:
        return np.array([node]) if node < self._passages else self._below[node - self._passages]


def _first(groups: list[np.ndarray], cosines: np.ndarray, k: int) -> np.ndarray:
    """The first k passages of groups in turn, each by cosine, none twice."""
    seen: dict[int, None] = {}
    for group in groups:
        seen |= dict.fromkeys(group[np.argsort(-cosines[group], kind="stable")].tolist())
        if len(seen) >= k:
            break
    return np.array(list(seen)[:k], np.int64)

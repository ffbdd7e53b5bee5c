"""Search in a loaded bundle: encoder, tree, index and documents as one object.

A *bundle* is a model folder (see `trained_tree`) that also has `index/`, `documents/` and `explanation/`. It holds no
pickle. The encoder is named, not copied: it is frozen. How a bundle is made, and HTTP, are not known here.
"""

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from retreever.bundle.document_store import DocumentStore
from retreever.bundle.hybrid_weights import HybridChoice, HybridWeights, choose_usual_weights
from retreever.bundle.nodes.node_explanation import Explanation, load_or_explain
from retreever.bundle.relevance import COMPARED_HITS, LevelRelevance, Relevance
from retreever.bundle.text_router import TextRouter
from retreever.config import Config
from retreever.data.dataset import Passage
from retreever.encoding.encoder import Encoder
from retreever.encoding.tokenized_texts import TextKind
from retreever.errors import BundleError
from retreever.index import Hybrid
from retreever.index.lexical.hybrid_query import LARGEST_HYBRID_WEIGHT
from retreever.index.tree_index import IndexFilter, NumbersAndScores, TreeIndex
from retreever.model.tree import Tree
from retreever.trained_tree import digest_model, read_model_config

EXPLANATION_FOLDER = "explanation"
MAX_SEARCH_K = 1000


@dataclass(frozen=True)
class Hit:
    """A passage that a search returns.

    Attributes:
        score: similarity to the query, higher is more similar.
        relevance: probability that a passage with this score at this rank is relevant, as the judgements of dev see it,
            in [0, 1]; None where the bundle has none for the level.
    """

    id: str
    score: float
    title: str
    text: str
    metadata: dict[str, Any]
    relevance: float | None = None


class Retreever:
    """A trained tree with its corpus. Several threads may search it at a time.

    Attributes:
        tree: the nodes; `load_trained_tree` loads what is learned.
        digest: of weights and settings; the index stores the same.
        folder: of the bundle.
        router: encoder and tree; None where the bundle was opened without its encoder.
        relevance: what turns scores into the relevance of hits; None where the bundle was made without dev queries.
        hybrid: the weights of hybrid search; those that dev chose, or usual ones where there was no dev.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        digest: str,
        router: TextRouter | None,
        index: TreeIndex,
        documents: DocumentStore,
        relevance: Relevance | None,
        hybrid: HybridWeights | None,
    ):
        self.folder, self.config, self.digest, self.tree = folder, config, digest, Tree(config.tree.depth)
        self.router, self.index, self.documents = router, index, documents
        self.relevance = relevance
        self.hybrid = hybrid or choose_usual_weights(bool(index.layout.encoding_dim))

    @classmethod
    def load(
        cls,
        folder: Path | str,
        device: str = "cpu",
        mmap: bool = True,
        encoder: bool = True,
        threads: int | None = None,
        exports: Path | None = None,
    ) -> "Retreever":
        """Open a bundle: check the model's checksums and the sizes of all files, map the index.

        Encoder and tree run without torch where the machine has their exports; else these are made now, with torch.

        Args:
            device: of torch, for tree and encoder.
            mmap: map the index instead of reading it, so that processes of a machine share one copy.
            encoder: load it too; without it, no text can be routed.
            threads: CPU threads of encoder and tree; None: those of torch where it is loaded, else all processors.
            exports: folder of exports; the default workspace's where it is None.

        Raises:
            BundleError: a file is missing, damaged, or made for another model.
            EncoderError: the encoder that the bundle names cannot be loaded.
        """
        folder = Path(folder)
        config, digest = read_model_config(folder), digest_model(folder)
        for part in ("index", "documents"):
            if not (folder / part).is_dir():
                raise BundleError(f"{folder / part}: is missing; `retreever index` makes a bundle of a model")
        with ThreadPoolExecutor(1) as pool:  # libraries of both sides take half a second to start
            opening = pool.submit(TextRouter.load, folder, device, threads, exports) if encoder else None
            index = TreeIndex.load(folder / "index", digest, mmap)
            documents = DocumentStore(folder / "documents")
            documents.require(index.next_number)
            relevance, hybrid = Relevance.load(folder, digest), HybridWeights.load(folder, digest)
            router = opening.result() if opening else None
        return cls(folder, config, digest, router, index, documents, relevance, hybrid)

    @property
    def encoder(self) -> Encoder | None:
        """The encoder; None where the bundle was opened without it."""
        return self.router.encoder if self.router else None

    @cached_property
    def explanation(self) -> Explanation:
        """Words, sizes and examples of the tree's nodes; computed on first use where the bundle has none."""
        effective = self.config.index.explain_nodes
        return load_or_explain(self.index, self.documents, self.folder / EXPLANATION_FOLDER, effective)

    def embed(self, texts: Sequence[str], kind: TextKind = "query", level: int | None = None) -> np.ndarray:
        """Probabilities at a level, float32 (texts, 2**level); the last level where it is None.

        Raises:
            ValueError: `texts` is not a list of texts, one of them is empty, or the level is out of range.
        """
        chosen = self._check_level(level)
        return self.route(texts, kind)[:, self.tree.level(chosen)]

    def search(
        self,
        texts: Sequence[str],
        k: int | None = None,
        level: int | None = None,
        hybrid: HybridChoice | None = None,
    ) -> list[list[Hit]]:
        """The exact k best passages for each text; of a compact index, the best by estimate.

        Args:
            k: passages a text, in [1, 1000]; `index.k` of the configuration where it is None.
            level: of the tree, in [1, depth]; the last where it is None.
            hybrid: rank by the sum of similarity, BM25 and, where the index keeps them, cosines of the encoder:
                `auto` with the bundle's weights, or with this weight of words, in [0, 1000]. `rrf`: by the ranks that
                similarity and BM25 give. `off`: by similarity alone. None: `auto` where `train.for` was hybrid, else
                `off`.

        Raises:
            ValueError: `texts` is not a list of texts, one of them is empty, k or level is out of range, the index
                is compact and the level is not the last, or it has no words for a hybrid search.
        """
        wanted = self.config.index.k if k is None else k
        if not isinstance(wanted, Integral) or not 1 <= wanted <= MAX_SEARCH_K:
            raise ValueError(f"k: must be a whole number in [1, {MAX_SEARCH_K}], got {wanted!r}")
        chosen = self._check_level(level)
        nodes, encodings = self.encode_and_route(texts, "query")
        asked = self.make_hybrid(texts, hybrid, encodings)
        (rows, scores), relevances = self.search_nodes(nodes, wanted, chosen, hybrid=asked)
        return [
            [self._make_hit(int(row), float(score), found) for row, score, found in zip(r, s, f, strict=True)]
            for r, s, f in zip(rows, scores, relevances, strict=True)
        ]

    @property
    def usual_choice(self) -> HybridChoice:
        """How a search is done that does not say it: as a hybrid where the model was trained for one."""
        return "auto" if self.config.train.goal == "hybrid" and self.index.has_words else "off"

    def make_hybrid(
        self, texts: Sequence[str], choice: HybridChoice | None, encodings: np.ndarray | None = None
    ) -> Hybrid | None:
        """What a search for these texts adds to similarities; None for `off`.

        Args:
            choice: as in `search`.
            encodings: of the texts, as `encode_and_route` returns them; not read where the index keeps none.

        Raises:
            ValueError: the choice is neither `auto`, `off`, `rrf` nor a weight in [0, 1000], or the index has no words.
        """
        asked = self.usual_choice if choice is None else choice
        if asked == "off":
            return None
        if not self.index.has_words:
            raise ValueError("hybrid: this bundle has no words; make it anew with `retreever index`")
        if asked == "rrf":
            return Hybrid(texts, self.hybrid.words, by_ranks=True)  # the weight serves explanations alone
        weight = self.hybrid.words if asked == "auto" else asked
        if isinstance(weight, str) or not 0 <= weight <= LARGEST_HYBRID_WEIGHT:
            rule = f"must be auto, off, rrf or a weight in [0, {LARGEST_HYBRID_WEIGHT:g}]"
            raise ValueError(f"hybrid: {rule}, got {choice!r}")
        kept = encodings if self.index.layout.encoding_dim else None
        return Hybrid(texts, float(weight), kept, 0.0 if kept is None else self.hybrid.encodings)

    def search_nodes(
        self,
        nodes: np.ndarray,
        k: int,
        level: int,
        where: IndexFilter | None = None,
        threads: int | None = None,
        hybrid: Hybrid | None = None,
    ) -> tuple[NumbersAndScores, list[list[float | None]]]:
        """Search for routed queries, as `TreeIndex.search` does, and tell the relevance of every hit.

        A hit's relevance does not depend on k: a search for fewer than ten looks at ten.

        Args:
            nodes: probabilities of all nodes, (queries, nodes).
            where: search only these passages; their hits have no relevance, because dev searched all passages.
            hybrid: what is added to similarities; hits have a relevance where its weights are the bundle's.

        Returns:
            Numbers and similarities, (queries, k) each, best first; then the hits' relevance.
        """
        fitted = self._find_relevance(level, hybrid) if where is None else None
        looked_at = k if fitted is None else max(k, COMPARED_HITS)
        numbers, scores = self.index.search(nodes, looked_at, level, where=where, threads=threads, hybrid=hybrid)
        found = (numbers[:, :k], scores[:, :k])
        if fitted is None:
            return found, [[None] * len(own) for own in found[0]]
        return found, fitted.predict(scores)[:, :k].tolist()

    def _find_relevance(self, level: int, hybrid: Hybrid | None) -> LevelRelevance | None:
        if self.relevance is None:
            return None
        if hybrid is None:
            return self.relevance.levels.get(level)
        own = (self.hybrid.words, self.hybrid.encodings)
        fitted = not hybrid.by_ranks and (hybrid.weight, hybrid.encoding_weight) == own
        return self.relevance.hybrid_levels.get(level) if fitted else None

    def _check_level(self, level: int | None) -> int:
        depth = self.tree.depth
        if level is not None and (not isinstance(level, Integral) or not 1 <= level <= depth):
            raise ValueError(f"level: must be a whole number in [1, {depth}], got {level!r}")
        return depth if level is None else level

    def _make_hit(self, row: int, score: float, relevance: float | None) -> Hit:
        passage = self.documents[row]
        return Hit(passage.id, score, passage.title, passage.text, passage.metadata, relevance)

    def route(self, texts: Sequence[str], kind: TextKind = "query") -> np.ndarray:
        """Probabilities of all nodes in heap order, float32 (texts, nodes). Raises as `encode_and_route` does."""
        return self.encode_and_route(texts, kind)[0]

    def encode_and_route(self, texts: Sequence[str], kind: TextKind = "query") -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of all nodes, float32 (texts, nodes), and the encoder's vectors, float32 (texts, dim).

        Raises:
            ValueError: `texts` is not a list of texts, one of them is empty, or the bundle was opened without its
                encoder.
        """
        if self.router is None:
            raise ValueError("texts: this bundle was opened without its encoder and routes no text")
        return self.router.encode_and_route(texts, kind)

    def add(self, passages: Sequence[Passage]) -> None:
        """Add passages. When this returns, they are on disk and the next search finds them.

        Raises:
            ValueError: the index has one of the ids, an id is there twice, or a text is empty. Nothing is added then.
            BundleError: another process is changing the bundle.
        """
        self.add_routed(passages, *self.encode_and_route([passage.full_text for passage in passages], "passage"))

    def add_routed(self, passages: Sequence[Passage], nodes: np.ndarray, encodings: np.ndarray) -> None:
        """Add passages with what `encode_and_route` returns for them. Raises as `add` does."""
        store_texts = functools.partial(self.documents.add, passages)
        texts = [passage.full_text for passage in passages]
        self.index.add(nodes, [passage.id for passage in passages], store_texts, texts=texts, encodings=encodings)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete passages from the index; their texts stay in the bundle's files until the bundle is made anew.

        Raises:
            ValueError: the index does not have one of the ids. Nothing is deleted then.
            BundleError: another process is changing the bundle.
        """
        self.index.delete(ids)

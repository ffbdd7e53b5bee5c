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
from retreever.bundle.hybrid_weight import UNFITTED_WEIGHT, HybridChoice, HybridWeight
from retreever.bundle.nodes.node_explanation import Explanation, load_or_explain
from retreever.bundle.relevance import COMPARED_HITS, Relevance
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
        hybrid: the weight of words that dev chose; None where the bundle was made without words or dev queries.
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
        hybrid: HybridWeight | None,
    ):
        self.folder, self.config, self.digest, self.tree = folder, config, digest, Tree(config.tree.depth)
        self.router, self.index, self.documents = router, index, documents
        self.relevance, self.hybrid = relevance, hybrid

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
            relevance, hybrid = Relevance.load(folder, digest), HybridWeight.load(folder, digest)
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
        hybrid: HybridChoice = "off",
    ) -> list[list[Hit]]:
        """The exact k best passages for each text; of a compact index, the best by estimate.

        Args:
            k: passages a text, in [1, 1000]; `index.k` of the configuration where it is None.
            level: of the tree, in [1, depth]; the last where it is None.
            hybrid: rank by the sum of similarity and weighted BM25: `auto` with the weight that dev chose, or a weight
                in [0, 1000]. `off`: by similarity alone.

        Raises:
            ValueError: `texts` is not a list of texts, one of them is empty, k or level is out of range, the index
                is compact and the level is not the last, or it has no words for a hybrid search.
        """
        wanted = self.config.index.k if k is None else k
        if not isinstance(wanted, Integral) or not 1 <= wanted <= MAX_SEARCH_K:
            raise ValueError(f"k: must be a whole number in [1, {MAX_SEARCH_K}], got {wanted!r}")
        chosen = self._check_level(level)
        (rows, scores), relevances = self.search_nodes(
            self.route(texts, "query"), wanted, chosen, hybrid=self.make_hybrid(texts, hybrid)
        )
        return [
            [self._make_hit(int(row), float(score), found) for row, score, found in zip(r, s, f, strict=True)]
            for r, s, f in zip(rows, scores, relevances, strict=True)
        ]

    def make_hybrid(self, texts: Sequence[str], choice: HybridChoice) -> Hybrid | None:
        """What a search for these texts adds to similarities; None for `off`.

        Raises:
            ValueError: the choice is neither `auto`, `off` nor a weight in [0, 1000], or the index has no words.
        """
        if choice == "off":
            return None
        if not self.index.has_words:
            raise ValueError("hybrid: this bundle has no words; make it anew with `retreever index`")
        if choice == "auto":
            return Hybrid(texts, self.hybrid.weight if self.hybrid else UNFITTED_WEIGHT)
        if isinstance(choice, str) or not 0 <= choice <= LARGEST_HYBRID_WEIGHT:
            raise ValueError(f"hybrid: must be auto, off or a weight in [0, {LARGEST_HYBRID_WEIGHT:g}], got {choice!r}")
        return Hybrid(texts, float(choice))

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
            hybrid: what is added to similarities; hits have no relevance, because dev knows similarities alone.

        Returns:
            Numbers and similarities, (queries, k) each, best first; then the hits' relevance.
        """
        plain = where is None and hybrid is None
        fitted = self.relevance.levels.get(level) if self.relevance and plain else None
        looked_at = k if fitted is None else max(k, COMPARED_HITS)
        numbers, scores = self.index.search(nodes, looked_at, level, where=where, threads=threads, hybrid=hybrid)
        found = (numbers[:, :k], scores[:, :k])
        if fitted is None:
            return found, [[None] * len(own) for own in found[0]]
        return found, fitted.predict(scores)[:, :k].tolist()

    def _check_level(self, level: int | None) -> int:
        depth = self.tree.depth
        if level is not None and (not isinstance(level, Integral) or not 1 <= level <= depth):
            raise ValueError(f"level: must be a whole number in [1, {depth}], got {level!r}")
        return depth if level is None else level

    def _make_hit(self, row: int, score: float, relevance: float | None) -> Hit:
        passage = self.documents[row]
        return Hit(passage.id, score, passage.title, passage.text, passage.metadata, relevance)

    def route(self, texts: Sequence[str], kind: TextKind = "query") -> np.ndarray:
        """Probabilities of all nodes in heap order, float32 (texts, nodes).

        Raises:
            ValueError: `texts` is not a list of texts, one of them is empty, or the bundle was opened without its
                encoder.
        """
        if self.router is None:
            raise ValueError("texts: this bundle was opened without its encoder and routes no text")
        return self.router.route(texts, kind)

    def add(self, passages: Sequence[Passage]) -> None:
        """Add passages. When this returns, they are on disk and the next search finds them.

        Raises:
            ValueError: the index has one of the ids, an id is there twice, or a text is empty. Nothing is added then.
            BundleError: another process is changing the bundle.
        """
        self.add_nodes(passages, self.route([passage.full_text for passage in passages], "passage"))

    def add_nodes(self, passages: Sequence[Passage], nodes: np.ndarray) -> None:
        """Add passages that are routed already: probabilities of all nodes, (passages, nodes). Raises as `add` does."""
        store_texts = functools.partial(self.documents.add, passages)
        texts = [passage.full_text for passage in passages]
        self.index.add(nodes, [passage.id for passage in passages], store_texts, texts=texts)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete passages from the index; their texts stay in the bundle's files until the bundle is made anew.

        Raises:
            ValueError: the index does not have one of the ids. Nothing is deleted then.
            BundleError: another process is changing the bundle.
        """
        self.index.delete(ids)

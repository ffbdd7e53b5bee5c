"""What one loads and asks: encoder, tree and index as one object, and the bundle on disk that holds them.

A *model* folder has `model.safetensors` (weights) and `model.json` (the arguments that rebuild the tree, and the whole
configuration). A *bundle* is a model folder with `index/`, `documents/` and `explanation/` beside it. Neither holds a
pickle. The encoder is named, not copied: it is frozen.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from retreever.bundle.document_store import Documents
from retreever.bundle.node_explanation import Explanation, explanation_of
from retreever.config import Config
from retreever.data.dataset import Passage
from retreever.encoding.encoder import Encoder, Kind
from retreever.errors import BundleError
from retreever.index.tree_index import TreeIndex
from retreever.model import RoutingTree
from retreever.trained_tree import load_model, model_digest, route_texts

EXPLANATION = "explanation"
LONGEST_K = 1000


@dataclass(frozen=True)
class Hit:
    """A passage found; the higher the score, the more alike."""

    id: str
    score: float
    title: str
    text: str
    metadata: dict[str, Any]


class Retreever:
    """A trained tree with its corpus.

    Attributes:
        digest: of the weights and configuration; an index knows it.
        folder: of the bundle; None where it is in memory only.
    """

    def __init__(
        self,
        tree: RoutingTree,
        config: Config,
        encoder: Encoder | None,
        index: TreeIndex,
        documents: Documents,
        digest: str,
        folder: Path | None = None,
    ):
        self.tree, self.config, self.encoder = tree.eval(), config, encoder
        self.index, self.documents, self.digest, self.folder = index, documents, digest, folder

    @classmethod
    def load(cls, folder: Path | str, device: str = "cpu", mmap: bool = True, encoder: bool = True) -> "Retreever":
        """Open a bundle: the model's checksums and the sizes of all files are checked, the index is mapped.

        Args:
            encoder: load it too; without it, what needs no text routed can be asked.

        Raises:
            BundleError: a file is missing, damaged, or made for another model.
            EncoderError: the encoder it names cannot be had.
        """
        folder = Path(folder)
        tree, config = load_model(folder)
        for part in ("index", "documents"):
            if not (folder / part).is_dir():
                raise BundleError(f"{folder / part}: is missing; `retreever index` makes a bundle of a model")
        digest = model_digest(folder)
        index = TreeIndex.load(folder / "index", digest, mmap)
        documents = Documents(folder / "documents")
        documents.require(index.numbers)
        reader = Encoder.load(config.encoder, device) if encoder else None
        return cls(tree.to(device), config, reader, index, documents, digest, folder)

    @cached_property
    def explanation(self) -> Explanation:
        """Words, sizes and examples of the tree's nodes; made at the first call where the bundle has none."""
        return explanation_of(self.index, self.documents, self.folder and self.folder / EXPLANATION)

    def embed(self, texts: Sequence[str], kind: Kind = "query", level: int | None = None) -> np.ndarray:
        """Probabilities (texts, 2**level) at a level; the finest where it is None.

        Raises:
            ValueError: texts that are not a list of texts, an empty one, or a level out of range.
        """
        chosen = self._level(level)
        return self.nodes(texts, kind)[:, self.tree.tree.level(chosen)]

    def search(self, texts: Sequence[str], k: int | None = None, level: int | None = None) -> list[list[Hit]]:
        """The exact best passages for each text; the best by estimate where the index is compact.

        Args:
            k: how many, in [1, 1000]; `index.k` of the configuration where it is None.
            level: of the tree, in [1, depth]; the finest where it is None.

        Raises:
            ValueError: texts that are not a list of texts, an empty one, k or level out of range, or another level than
                the finest of a compact index.
        """
        wanted = self.config.index.k if k is None else k
        if not isinstance(wanted, Integral) or not 1 <= wanted <= LONGEST_K:
            raise ValueError(f"k: must be a whole number in [1, {LONGEST_K}], got {wanted!r}")
        chosen = self._level(level)
        rows, scores = self.index.search(self.nodes(texts, "query"), wanted, chosen)
        return [
            [self._hit(int(row), float(score)) for row, score in zip(r, s, strict=True)]
            for r, s in zip(rows, scores, strict=True)
        ]

    def _level(self, level: int | None) -> int:
        depth = self.tree.tree.depth
        if level is not None and (not isinstance(level, Integral) or not 1 <= level <= depth):
            raise ValueError(f"level: must be a whole number in [1, {depth}], got {level!r}")
        return depth if level is None else level

    def _hit(self, row: int, score: float) -> Hit:
        passage = self.documents[row]
        return Hit(passage.id, score, passage.title, passage.text, passage.metadata)

    def nodes(self, texts: Sequence[str], kind: Kind = "query") -> np.ndarray:
        """Probabilities of all nodes in heap order, float32 (texts, nodes).

        Raises:
            ValueError: texts that are not a list of texts, or an empty one.
        """
        if self.encoder is None:
            raise ValueError("texts: this bundle was opened without its encoder, it routes none")
        return route_texts(self.tree, self.config, self.encoder, texts, kind)

    def add(self, passages: Sequence[Passage]) -> None:
        """Add passages: found by the next search, and on disk where the bundle is, before this returns.

        Raises:
            ValueError: an id that the index has already, or twice; an empty text. Nothing is added then.
            BundleError: another process is changing the bundle.
        """
        self.add_routed(passages, self.nodes([passage.full for passage in passages], "passage"))

    def add_routed(self, passages: Sequence[Passage], nodes: np.ndarray) -> None:
        """The same of passages that are routed already: probabilities of all nodes, (passages, nodes)."""
        first = functools.partial(self.documents.add, passages)
        self.index.add(nodes, [passage.id for passage in passages], first)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete passages from what is searched; their texts stay in the bundle's files until it is made anew.

        Raises:
            ValueError: an id that the index does not have. Nothing is deleted then.
            BundleError: another process is changing the bundle.
        """
        self.index.delete(ids)

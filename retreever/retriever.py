"""What one loads and asks: encoder, tree and index as one object, and the bundle on disk that holds them.

A *model* folder has `model.safetensors` (weights) and `model.json` (the arguments that rebuild the tree, and the whole
configuration). A *bundle* is a model folder with `index/`, `documents/` and `explanation/` beside it. Neither holds a
pickle. The encoder is named, not copied: it is frozen.
"""

import functools
import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from retreever import config as configs
from retreever.config import Config
from retreever.data.dataset import Passage
from retreever.encoding.encoder import Encoder, Kind
from retreever.encoding.encoding_store import EncodedDataset, Encodings, open_dataset
from retreever.errors import BundleError, ConfigError
from retreever.explanation import Explanation, explain, explanation_of
from retreever.index.documents import Documents, write_documents
from retreever.index.index_layout import Layout
from retreever.index.tree_index import TreeIndex
from retreever.model import RoutingTree
from retreever.system.files import read_json, seal, unseal, write_aside, write_json
from retreever.system.progress import Track, silent
from retreever.system.workspace import Workspace

FORMAT = 1
MODEL_FILES = ("model.safetensors", "model.json")
EXPLANATION = "explanation"
CHUNK = {False: 1024, True: 64}  # texts routed at once: pooled, tokens
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


def route_texts(
    tree: RoutingTree, config: Config, encoder: Encoder, texts: Sequence[str], kind: Kind = "query"
) -> np.ndarray:
    """Probabilities of all nodes in heap order, float32 (texts, nodes).

    Raises:
        ValueError: texts that are not a list of texts, or an empty one.
        EncoderError: a text of which the encoder reads nothing.
    """
    _check(texts)
    if config.tree.split == "cross_attention":
        x, mask = encoder.tokens(texts, kind)
    else:
        x, mask = torch.from_numpy(encoder.pooled(texts, kind)), None
    device = next(tree.parameters()).device
    with torch.inference_mode():
        nodes = tree(x.to(device), None if mask is None else mask.to(device))
    return cast(np.ndarray, nodes.float().exp().cpu().numpy())


def _check(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise ValueError(f"texts: must be a list of texts, got the one text {texts[:60]!r}")
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"texts[{i}]: must be a text with something in it, got {text!r}")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"texts[{i}]: must be valid Unicode, it holds an unpaired surrogate: {text[:60]!r}")


def save_model(tree: RoutingTree, config: Config, folder: Path) -> None:
    """Write a model folder, whole or not at all."""
    with write_aside(folder) as aside:
        aside.mkdir()
        weights = {name: value.detach().cpu().contiguous() for name, value in tree.state_dict().items()}
        save_file(weights, aside / "model.safetensors")
        write_json(
            aside / "model.json",
            {"format": FORMAT, "arguments": tree.arguments, "config": config.model_dump(mode="json")},
        )
        seal(aside, {"format": FORMAT})


def load_model(folder: Path) -> tuple[RoutingTree, Config]:
    """Read a model folder or the model of a bundle.

    Raises:
        BundleError: a file is missing, damaged, or not of this format.
    """
    unseal(folder, checksums=MODEL_FILES)
    values = read_json(folder / "model.json")
    if values.get("format") != FORMAT:
        raise BundleError(f"{folder / 'model.json'}: format {values.get('format')}, this version reads {FORMAT}")
    try:
        # A model from before there were words has no such setting: it was trained on the last layer alone.
        encoder = {"words": 0.0} | values["config"]["encoder"]
        config = configs.build(values["config"] | {"encoder": encoder})
        tree = RoutingTree(**values["arguments"])
        tree.load_state_dict(load_file(folder / "model.safetensors"))
    except (KeyError, TypeError, ValueError, RuntimeError, ConfigError) as error:
        raise BundleError(f"{folder}: not a model of this version: {error}") from None
    return tree.eval(), config


def model_digest(folder: Path) -> str:
    """Digest of a model's weights and settings."""
    hashed = hashlib.sha256()
    for name in MODEL_FILES:
        hashed.update((folder / name).read_bytes())
    return hashed.hexdigest()


def make_bundle(model: Path, target: Path, workspace: Workspace, track: Track = silent) -> dict[str, Any]:
    """Index the corpus that a model's configuration names and write model, index and documents to `target`.

    Returns:
        The statistics of the index.
    """
    tree, config = load_model(model)
    data = open_dataset(config, workspace, track)
    return write_bundle(
        model, target, data, lambda folder: build_index(tree, config, data, model_digest(model), track, folder)
    )


def write_bundle(model: Path, target: Path, data: EncodedDataset, build: Callable[[Path], TreeIndex]) -> dict[str, Any]:
    """Write a bundle to `target`, whole or not at all.

    Args:
        build: writes the index to the folder given.

    Returns:
        The statistics of the index.
    """
    with write_aside(target) as aside:
        aside.mkdir()
        for name in MODEL_FILES:
            shutil.copy2(model / name, aside / name)
        index = build(aside / "index")
        write_documents(data.dataset.corpus, aside / "documents")
        explain(index, Documents(aside / "documents")).save(aside / EXPLANATION, index.layout.model)
        seal(aside, {"format": FORMAT, "dataset": data.dataset.name, "dataset_digest": data.dataset.digest})
    return index.stats()


def build_index(
    tree: RoutingTree,
    config: Config,
    data: EncodedDataset,
    digest: str,
    track: Track = silent,
    folder: Path | None = None,
) -> TreeIndex:
    """Route a corpus and index it.

    Args:
        digest: of the model, by which the index knows it.
        folder: write the index there as it grows; in memory where it is None.
    """
    layout = layout_of(tree, config, digest)
    nodes = track(routed(tree, config, data.passages), "indexing, chunks", total=chunks(config, len(data.passages)))
    return TreeIndex.build(nodes, [passage.id for passage in data.dataset.corpus], layout, folder)


def layout_of(tree: RoutingTree, config: Config, digest: str) -> Layout:
    """What an index of a model is."""
    held = config.index
    return Layout(config.tree.depth, config.loss.similarity, tree.exact_hierarchy, digest, held.dtype, held.compact)


def routed(
    tree: RoutingTree, config: Config, encodings: Encodings, rows: np.ndarray | None = None, device: str = "cpu"
) -> Iterator[np.ndarray]:
    """Node probabilities, float32 (chunk, nodes), of texts held as encodings; in chunks, without gradient.

    Args:
        rows: which texts; all of them where it is None.
    """
    tokens = config.tree.split == "cross_attention"
    chosen = np.arange(len(encodings)) if rows is None else rows
    tree.eval()
    for start in range(0, len(chosen), CHUNK[tokens]):
        x, mask = encodings.batch(chosen[start : start + CHUNK[tokens]], tokens)
        with torch.inference_mode():
            nodes = tree(x.to(device), None if mask is None else mask.to(device))
        yield nodes.float().exp().cpu().numpy()


def chunks(config: Config, texts: int) -> int:
    """In how many chunks as many texts are routed."""
    return -(-texts // CHUNK[config.tree.split == "cross_attention"])

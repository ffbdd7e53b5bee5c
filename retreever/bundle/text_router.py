"""From texts to node probabilities without torch: the encoder's runtime, and the tree as a graph in the same library.

    exports/KEY/ tree.onnx    encodings -> probabilities of all nodes, float32
                 facts.json   largest difference to torch, by runtime; or why there is no graph

KEY is a digest of the model. Where a graph differs from torch by more than `MAX_NODE_DIFFERENCE`, torch routes. Indexes
are not known here.
"""

import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retreever.config import Config
from retreever.encoding.encoder import Encoder
from retreever.encoding.encoder_export import SAMPLE_TEXTS, find_encoder_export, open_or_make_export
from retreever.encoding.runtimes.choose_runtime import (
    GRAPH_RUNTIMES,
    Runtime,
    choose_runtime,
    find_figures,
    open_graph,
)
from retreever.encoding.tokenized_texts import TextKind
from retreever.errors import BundleError
from retreever.model.tree import Tree
from retreever.system.files import (
    digest_json,
    read_json,
    seal_folder,
    verify_sealed_folder,
    write_json,
)
from retreever.system.workspace import Workspace
from retreever.trained_tree import check_texts, digest_model, load_model, read_model_config

TREE_EXPORT_FORMAT = 1
TREE_GRAPH_FILE, TREE_FACTS_FILE = "tree.onnx", "facts.json"
MAX_NODE_DIFFERENCE = 1e-5  # of a graph's probabilities to torch's
ROUTED_NUMBERS = 2**24  # numbers that a graph holds for its nodes at a time, at most: 64 MiB
_log = logging.getLogger(__name__)


class TextRouter:
    """The encoder of a model and its tree. Several threads may call it at a time.

    Args:
        encoder: of the model.
        router: computes the tree.

    Attributes:
        tree: the nodes.
    """

    def __init__(self, config: Config, encoder: Encoder, router: Runtime):
        self.config, self.encoder, self._router = config, encoder, router
        self.tree = Tree(config.tree.depth)

    @classmethod
    def load(
        cls, folder: Path | str, device: str = "cpu", threads: int | None = None, exports: Path | None = None
    ) -> "TextRouter":
        """Open the model in a folder, or that of a bundle. What is missing of its exports is made now, with torch.

        Args:
            device: a torch device; anything but `cpu` is computed by torch.
            threads: CPU threads of encoder and tree; None: those of torch where it is loaded, else all processors.
            exports: folder of exports; the default workspace's where it is None.

        Raises:
            BundleError: a file is missing, damaged, or not of this format.
            EncoderError: the encoder that the model names cannot be loaded.
        """
        config = read_model_config(Path(folder))
        encoder = Encoder.load(config.encoder, device, threads, exports)
        return cls(config, encoder, _open_tree(Path(folder), config, encoder, device, threads, exports))

    def route(self, texts: Sequence[str], kind: TextKind = "query") -> np.ndarray:
        """Probabilities of all nodes in heap order, float32 (texts, nodes). Raises as `encode_and_route` does."""
        return self.encode_and_route(texts, kind)[0]

    def encode_and_route(self, texts: Sequence[str], kind: TextKind = "query") -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of all nodes, float32 (texts, nodes), and vectors of the last layer, float32 (texts, dim).

        Raises:
            ValueError: `texts` is not a list of texts, or one of them is empty or not valid Unicode.
            EncoderError: the encoder finds no token in a text.
        """
        check_texts(texts)
        attends = self.config.tree.split == "cross_attention"
        out = np.empty((len(texts), self.tree.nodes), np.float32)
        last_layer = np.empty((len(texts), self.encoder.export.facts.hidden), np.float32)
        for encoded in self.encoder.encode(texts, kind, states=attends):
            inputs = {"x": encoded.states, "mask": encoded.mask} if attends else {"x": encoded.pooled}
            last_layer[encoded.rows] = encoded.pooled[:, : last_layer.shape[1]]
            size = self._count_texts_at_once(encoded.mask.shape[1] if attends else 0)
            for start in range(0, len(encoded.rows), size):
                own = slice(start, start + size)
                given = {name: value[own] for name, value in inputs.items() if value is not None}
                (out[encoded.rows[own]],) = self._router.run(given, ("nodes",))
        return out, last_layer

    def _count_texts_at_once(self, attended: int) -> int:
        """Texts that the tree routes together, by the tokens of each that it attends to."""
        return max(1, ROUTED_NUMBERS // (self.tree.nodes * max(1, self.config.tree.heads * attended)))


def prepare_exports(folder: Path | str, exports: Path | str | None = None) -> None:
    """Make what is missing of a model's exports on this machine, with torch; otherwise do nothing.

    Args:
        folder: of a model or bundle.
        exports: folder of exports; the default workspace's where it is None.

    Raises:
        BundleError: a file of the model is missing, damaged, or not of this format.
        EncoderError: the encoder that the model names cannot be loaded.
    """
    own = None if exports is None else Path(exports)
    if not _has_exports(Path(folder), own):
        TextRouter.load(folder, exports=own)


def prepare_exports_apart(folder: Path | str, exports: Path | None = None) -> None:
    """As `prepare_exports`, in a process that ends, so that this one does not import torch. Raises the same."""
    if _has_exports(Path(folder), exports):
        return
    command = "import sys; from retreever.bundle.text_router import prepare_exports; prepare_exports(*sys.argv[1:])"
    arguments = [str(folder), *([] if exports is None else [str(exports)])]
    if subprocess.run([sys.executable, "-c", command, *arguments], stderr=subprocess.DEVNULL).returncode:
        prepare_exports(folder, exports)  # raises what was wrong


def _has_exports(folder: Path, exports: Path | None) -> bool:
    config = read_model_config(folder).encoder
    if config.runtime == "torch":
        return find_encoder_export(config, exports, graph=False) is not None
    export = find_encoder_export(config, exports)
    if export is None or (export.graph is not None and find_figures(config, export) is None):
        return False
    if choose_runtime(config, export) == "torch":
        return True
    return _read_tree_export(_name_tree_export(folder, exports)) is not None


def _open_tree(
    folder: Path, config: Config, encoder: Encoder, device: str, threads: int | None, exports: Path | None
) -> Runtime:
    """The tree in the library that computes the encoder, as far as that agrees with torch."""
    name = encoder.runtime.name
    if name != "torch":
        place = _name_tree_export(folder, exports)
        facts = open_or_make_export(
            place, lambda: _read_tree_export(place), lambda aside: _write_tree_export(folder, config, encoder, aside)
        )
        difference = facts["differences"].get(name)
        if difference is not None and difference <= MAX_NODE_DIFFERENCE:
            return open_graph(name, place / TREE_GRAPH_FILE, threads)
        _log.warning("%s: torch routes; %s", folder, facts["fault"] or f"the graph in {name} differs by {difference}")
    from retreever.encoding.runtimes.torch_runtime import TorchRuntime
    from retreever.model.traceable_tree import TraceableTree

    return TorchRuntime(TraceableTree(load_model(folder)[0]), ("nodes",), device, threads)


def _name_tree_export(folder: Path, exports: Path | None) -> Path:
    key = {"format": TREE_EXPORT_FORMAT, "model": digest_model(folder)}
    return (exports or Workspace.default().exports) / digest_json(key)


def _read_tree_export(place: Path) -> dict[str, Any] | None:
    """The facts of a tree's export; None where it is missing or damaged."""
    if not place.is_dir():
        return None
    try:
        verify_sealed_folder(place)
        facts: dict[str, Any] = read_json(place / TREE_FACTS_FILE)
    except BundleError as error:
        _log.warning("%s; it is made anew", error)
        return None
    return facts


def _write_tree_export(folder: Path, config: Config, encoder: Encoder, aside: Path) -> None:
    """Trace the tree on encodings of texts, and compare every runtime with torch."""
    import torch

    from retreever.encoding.runtimes.export_graph import export_graph
    from retreever.model.traceable_tree import TraceableTree

    tree, graph = load_model(folder)[0], aside / TREE_GRAPH_FILE
    attends = config.tree.split == "cross_attention"
    texts = [" ".join(SAMPLE_TEXTS)[:end] for end in range(2, 122, 8)]
    if attends:
        given = dict(zip(("x", "mask"), encoder.encode_tokens(texts, "query"), strict=True))
    else:
        given = {"x": encoder.encode_pooled(texts, "query")}
    tensors = {name: torch.from_numpy(value) for name, value in given.items()}
    free = ("batch", "tokens") if attends else ("batch",)
    axes = {**dict.fromkeys(tensors, free), "nodes": ("batch",)}
    traced = {name: value[:3] for name, value in tensors.items()}
    fault = export_graph(TraceableTree(tree), traced, ("nodes",), axes, graph)
    with torch.inference_mode():
        expected = tree(*tensors.values()).exp().numpy()
    differences = {} if fault else {name: _compare_graph(name, graph, given, expected) for name in GRAPH_RUNTIMES}
    write_json(aside / TREE_FACTS_FILE, {"fault": fault, "differences": differences})
    seal_folder(aside, {"format": TREE_EXPORT_FORMAT})


def _compare_graph(name: str, graph: Path, inputs: Mapping[str, np.ndarray], expected: np.ndarray) -> float | None:
    """The largest difference of a runtime's probabilities to torch's; None where it cannot compute them."""
    try:
        (found,) = open_graph(name, graph, 1).run(inputs, ("nodes",))
    except Exception:  # of a library that is missing, or of the runtimes: they share no base
        _log.debug("%s computes no %s", name, graph, exc_info=True)
        return None
    return float(np.abs(found - expected).max())

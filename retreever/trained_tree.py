"""A trained tree on disk, and the routing of encodings through it.

A *model* folder holds `model.safetensors` (weights) and `model.json` (the arguments that rebuild the tree, and the
whole configuration); no pickle. The encoder is named, not copied: it is frozen. Corpora and indexes are not known here,
only the layout that an index of this tree has. Training and bundles import this module.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retreever import config as configs
from retreever.config import VALUES_BEFORE, Config
from retreever.encoding.text_encodings import Encodings
from retreever.errors import BundleError, ConfigError
from retreever.index.index_layout import Layout
from retreever.system.files import read_json, seal_folder, verify_sealed_folder, write_atomically, write_json

if TYPE_CHECKING:  # a bundle is searched without torch
    from retreever.model import RoutingTree

BUNDLE_FORMAT = 1
MODEL_FILES = ("model.safetensors", "model.json")
ROUTING_CHUNK_TEXTS = {False: 1024, True: 64}  # texts routed at once, by whether the tree reads their tokens


@dataclass(frozen=True)
class TrainedTree:
    """A model folder, loaded once.

    Attributes:
        digest: of weights and settings, 64 hex digits; an index stores it to know its tree.
        folder: where the model's files lie.
    """

    tree: "RoutingTree"
    config: Config
    digest: str
    folder: Path

    @property
    def layout(self) -> Layout:
        """The layout of an index of this tree."""
        held = self.config.index
        return Layout(
            self.config.tree.depth,
            self.config.loss.similarity,
            self.tree.exact_hierarchy,
            self.digest,
            held.dtype,
            held.compact,
            self._encoding_dim if self.config.keeps_encodings else 0,
        )

    @property
    def _encoding_dim(self) -> int:
        """Width of the encoder's last layer; lexical features make a text's encoding twice as wide."""
        dim = int(self.tree.arguments["dim"])
        return dim // 2 if self.config.encoder.words else dim


def load_trained_tree(folder: Path) -> TrainedTree:
    """Read a model folder, or the model of a bundle, with its digest.

    Raises:
        BundleError: a file is missing, damaged, or not of this format.
    """
    tree, config = load_model(folder)
    return TrainedTree(tree, config, digest_model(folder), folder)


def save_model(tree: "RoutingTree", config: Config, folder: Path) -> None:
    """Write a model folder, whole or not at all."""
    from safetensors.torch import save_file

    with write_atomically(folder) as aside:
        aside.mkdir()
        weights = {name: value.detach().cpu().contiguous() for name, value in tree.state_dict().items()}
        save_file(weights, aside / "model.safetensors")
        write_json(
            aside / "model.json",
            {"format": BUNDLE_FORMAT, "arguments": tree.arguments, "config": config.model_dump(mode="json")},
        )
        seal_folder(aside, {"format": BUNDLE_FORMAT})


def load_model(folder: Path) -> "tuple[RoutingTree, Config]":
    """Read tree and configuration of a model folder, or of the model of a bundle.

    Raises:
        BundleError: a file is missing, damaged, or not of this format.
    """
    from safetensors.torch import load_file

    from retreever.model import RoutingTree

    config, arguments = _read_model_file(folder)
    try:
        tree = RoutingTree(**{"norm_levels": VALUES_BEFORE["tree"]["norm_levels"]} | arguments)
        tree.load_state_dict(load_file(folder / "model.safetensors"))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BundleError(f"{folder}: not a model of this version: {error}") from None
    return tree.eval(), config


def read_model_config(folder: Path) -> Config:
    """Read the configuration of a model folder, or of the model of a bundle, and check both of its files.

    Raises:
        BundleError: a file is missing, damaged, or not of this format.
    """
    return _read_model_file(folder)[0]


def _read_model_file(folder: Path) -> tuple[Config, dict[str, Any]]:
    """Configuration, and the arguments that rebuild the tree."""
    verify_sealed_folder(folder, checksums=MODEL_FILES)
    values = read_json(folder / "model.json")
    if values.get("format") != BUNDLE_FORMAT:
        raise BundleError(f"{folder / 'model.json'}: format {values.get('format')}, this version reads {BUNDLE_FORMAT}")
    try:
        return configs.build_config(_complete_settings(values["config"])), dict(values["arguments"])
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise BundleError(f"{folder}: not a model of this version: {error}") from None


def _complete_settings(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration with the settings that did not exist then, at the values that describe that time."""
    # Without lexical features: the last layer alone.
    before = {**VALUES_BEFORE, "encoder": {"words": 0.0, **VALUES_BEFORE["encoder"]}}
    return {section: {**before.get(section, {}), **settings} for section, settings in stored.items()}


def digest_model(folder: Path) -> str:
    """SHA-256 digest of a model's weights and settings, 64 hex digits."""
    hashed = hashlib.sha256()
    for name in MODEL_FILES:
        hashed.update((folder / name).read_bytes())
    return hashed.hexdigest()


def check_texts(texts: Sequence[str]) -> None:
    """Check texts that are to be routed.

    Raises:
        ValueError: `texts` is not a list of texts, or one of them is empty or not valid Unicode.
    """
    if isinstance(texts, str):
        raise ValueError(f"texts: must be a list of texts, got the one text {texts[:60]!r}")
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"texts[{i}]: must be a text with something in it, got {text!r}")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"texts[{i}]: must be valid Unicode, it holds an unpaired surrogate: {text[:60]!r}")


def route_encodings(
    tree: "RoutingTree", config: Config, encodings: Encodings, rows: np.ndarray | None = None, device: str = "cpu"
) -> Iterator[np.ndarray]:
    """Route stored encodings, without gradient; yields node probabilities in heap order, float32 (chunk, nodes).

    Args:
        rows: the texts to route; all of them where it is None.
    """
    import torch

    tokens = config.tree.split == "cross_attention"
    chosen = np.arange(len(encodings)) if rows is None else rows
    tree.eval()
    for start in range(0, len(chosen), ROUTING_CHUNK_TEXTS[tokens]):
        x, mask = encodings.batch(chosen[start : start + ROUTING_CHUNK_TEXTS[tokens]], tokens)
        with torch.inference_mode():
            nodes = tree(x.to(device), None if mask is None else mask.to(device))
        yield nodes.float().exp().cpu().numpy()


def count_chunks(config: Config, texts: int) -> int:
    """Number of chunks that `route_encodings` yields for so many texts."""
    return -(-texts // ROUTING_CHUNK_TEXTS[config.tree.split == "cross_attention"])

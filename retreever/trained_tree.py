"""A trained tree on disk, and texts routed by it.

A *model* folder has `model.safetensors` (weights) and `model.json` (the arguments that rebuild the tree, and the whole
configuration); no pickle. The encoder is named, not copied: it is frozen. Training and the bundle stand on this module.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from retreever import config as configs
from retreever.config import Config
from retreever.encoding.encoder import Encoder, Kind
from retreever.encoding.encoding_store import Encodings
from retreever.errors import BundleError, ConfigError
from retreever.index.index_layout import Layout
from retreever.model import RoutingTree
from retreever.system.files import read_json, seal, unseal, write_aside, write_json

FORMAT = 1
MODEL_FILES = ("model.safetensors", "model.json")
CHUNK = {False: 1024, True: 64}  # texts routed at once: pooled, tokens


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


def layout_of(tree: RoutingTree, config: Config, digest: str) -> Layout:
    """What an index of a model is."""
    held = config.index
    return Layout(config.tree.depth, config.loss.similarity, tree.exact_hierarchy, digest, held.dtype, held.compact)

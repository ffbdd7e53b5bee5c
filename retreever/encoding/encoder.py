"""The frozen text encoder: texts -> token states and one pooled vector each, by `transformers`.

It decides how texts are cut, pooled and scaled. It does not know where an encoder's files are (`encoder_files.py`), nor
where encodings are kept (`encoding_store.py`).
"""

import math
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from retreever.config import EncoderConfig
from retreever.encoding.encoder_files import locate_encoder, prefix_and_length, resolve_dtype
from retreever.encoding.lexical_features import LexicalFeatures
from retreever.encoding.tokenized_texts import TextKind, TokenizedTexts
from retreever.errors import EncoderError
from retreever.system.garbage_collection import pause_garbage_collection
from retreever.system.progress import Track, track_silently

TEXTS_PER_TOKENIZER_CALL = 4096


@dataclass(frozen=True)
class EncodedBatch:
    """Encodings of some texts.

    Attributes:
        rows: rows of these texts in the list that was encoded, int64 (batch,).
        states: token states, (batch, length, dim); with `encoder.words` each has its lexical features concatenated.
        mask: true where a state belongs to a token, bool (batch, length).
        pooled: (batch, dim) float32. Where the encoder normalises, they have length one, and the states are divided by
            the same number; so with mean pooling the mean of a text's states is its pooled vector.
    """

    rows: np.ndarray
    states: Tensor
    mask: Tensor
    pooled: Tensor


class Encoder:
    """A transformer with its tokenizer and settings; `load` makes one.

    Args:
        device: a torch device, on which `model` is.
    """

    def __init__(self, model: Any, tokenizer: Any, config: EncoderConfig, device: str):
        self.model, self.tokenizer, self.config, self.device = model, tokenizer, config, device
        self._lexical_features = None
        if config.words:
            self._lexical_features = LexicalFeatures(
                model.get_input_embeddings().weight, tokenizer.all_special_ids, config.words
            )

    @classmethod
    def load(cls, config: EncoderConfig, device: str = "cpu") -> "Encoder":
        """Load the encoder that `config.name` names, see `locate_encoder`.

        Raises:
            EncoderError: there is no such encoder, its files cannot be read or lack weights, it has fewer positions
                than the configured lengths, or its word embeddings are not as wide as its states.
        """
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        folder = locate_encoder(config.name, config.revision)
        with pause_garbage_collection():  # collecting takes a fifth of the time of imports
            model, tokenizer, missing = _read_encoder(folder, config)
        _check_weights(config, missing)
        _check_lengths(config, model)
        _check_lexical_features(config, model)
        return cls(model.eval().requires_grad_(False).to(device), tokenizer, config, device)

    @property
    def dim(self) -> int:
        """Width of token states and pooled vectors."""
        return int(self.model.config.hidden_size) + (self._lexical_features.width if self._lexical_features else 0)

    def tokenize(self, texts: Sequence[str], kind: TextKind) -> TokenizedTexts:
        """Tokenize texts with prefix, special tokens and truncation as configured.

        Raises:
            EncoderError: a text has no token.
        """
        prefix, length = prefix_and_length(self.config, kind)
        self.tokenizer.truncation_side = self.config.query_truncation if kind == "query" else "right"
        tokenized = self._tokenize(texts, prefix, {"truncation": True, "max_length": length})
        empty = np.flatnonzero(tokenized.lengths == 0)
        if len(empty):
            raise EncoderError(f"{kind} {empty[0]}: the tokenizer finds no token in {texts[empty[0]][:60]!r}")
        if self._lexical_features:  # they are cheap, however long a text is
            return replace(tokenized, untruncated=self._tokenize(texts, prefix, {"truncation": False}))
        return tokenized

    def _tokenize(self, texts: Sequence[str], prefix: str, options: Mapping[str, Any]) -> TokenizedTexts:
        ids, lengths = [np.empty(0, np.int32)], [np.zeros(1, np.int64)]
        for start in range(0, len(texts), TEXTS_PER_TOKENIZER_CALL):
            part = [prefix + text for text in texts[start : start + TEXTS_PER_TOKENIZER_CALL]]
            own = self.tokenizer(part, return_attention_mask=False, **options)["input_ids"]
            lengths.append(np.fromiter(map(len, own), np.int64, len(own)))
            ids.append(np.fromiter(chain.from_iterable(own), np.int32, int(lengths[-1].sum())))
        return TokenizedTexts(np.concatenate(ids), np.cumsum(np.concatenate(lengths)))

    def plan_batches(self, tokenized: TokenizedTexts) -> list[np.ndarray]:
        """Rows in batches of similar length, the longest first, of about `batch_tokens` padded tokens each."""
        lengths = tokenized.lengths
        order = np.argsort(-lengths, kind="stable")
        batches, start = [], 0
        while start < len(order):
            size = max(1, self.config.batch_tokens // int(lengths[order[start]]))
            batches.append(order[start : start + size])
            start += size
        return batches

    def encode_batches(
        self, tokenized: TokenizedTexts, track: Track = track_silently, label: str = "encoding"
    ) -> Iterator[EncodedBatch]:
        """Encode all texts, batch by batch."""
        plan = self.plan_batches(tokenized)
        for rows in track(plan, label, total=len(plan)):
            yield self._encode_batch(rows, tokenized)

    def encode(self, texts: Sequence[str], kind: TextKind, track: Track = track_silently) -> Iterator[EncodedBatch]:
        """Tokenize and encode texts; batches come longest first, `EncodedBatch.rows` names their texts.

        Raises:
            EncoderError: a text has no token.
        """
        return self.encode_batches(self.tokenize(texts, kind), track)

    def _encode_batch(self, rows: np.ndarray, tokenized: TokenizedTexts) -> EncodedBatch:
        ids, tokens = tokenized.pad_rows(rows, self.tokenizer.pad_token_id or 0)
        mask = torch.from_numpy(tokens).to(self.device)
        with torch.inference_mode():
            given = torch.from_numpy(ids).to(self.device)
            states = self.model(input_ids=given, attention_mask=mask.long()).last_hidden_state.float()
            pooled = states[:, 0] if self.config.pooling == "cls" else _pool_mean(states, mask)
            if self.config.normalize:
                norm = pooled.norm(dim=1, keepdim=True).clamp_min(1e-12)
                pooled, states = pooled / norm, states / norm.unsqueeze(-1)
            if self._lexical_features and tokenized.untruncated:
                own = tokenized.untruncated.select(rows)
                whole = torch.from_numpy(own.ids).to(self.device), torch.from_numpy(own.lengths).to(self.device)
                states, pooled = self._lexical_features.concatenate(states, pooled, given, mask, *whole)
        return EncodedBatch(rows, states, mask, pooled)

    def encode_pooled(self, texts: Sequence[str], kind: TextKind) -> np.ndarray:
        """Pooled vectors, float32 (texts, dim), in the order given."""
        out = np.empty((len(texts), self.dim), np.float32)
        for encoded in self.encode(texts, kind):
            out[encoded.rows] = encoded.pooled.cpu().numpy()
        return out

    def encode_tokens(self, texts: Sequence[str], kind: TextKind) -> tuple[Tensor, Tensor]:
        """Token states (texts, length, dim), zero where there is no token, and their mask (texts, length)."""
        states, mask = self.encode_states(self.tokenize(texts, kind))
        return states.cpu(), mask.cpu()

    def encode_states(self, tokenized: TokenizedTexts) -> tuple[Tensor, Tensor]:
        """As `encode_tokens`, for tokenized texts, on the encoder's device."""
        shape = len(tokenized.lengths), int(tokenized.lengths.max(initial=0))
        states = torch.zeros(*shape, self.dim, device=self.device)
        mask = torch.zeros(*shape, dtype=torch.bool, device=self.device)
        for encoded in self.encode_batches(tokenized):
            length = encoded.states.shape[1]
            states[encoded.rows, :length] = encoded.states * encoded.mask.unsqueeze(-1)
            mask[encoded.rows, :length] = encoded.mask
        return states, mask


def _read_encoder(folder: Path, config: EncoderConfig) -> tuple[Any, Any, Collection[str]]:
    """Model, tokenizer, and the names of missing weights."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model, found = AutoModel.from_pretrained(
                folder,
                dtype=resolve_dtype(config),
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # the errors of reading settings, weights and vocabulary share no base
        raise EncoderError(f"encoder.name: {config.name}: {folder} does not load: {error}") from error
    return model, tokenizer, found["missing_keys"]


def _check_weights(config: EncoderConfig, missing: Collection[str]) -> None:
    lacking = sorted(name for name in missing if not name.startswith("pooler."))  # pooling is ours
    if lacking:
        raise EncoderError(f"encoder.name: {config.name}: {len(lacking)} weights are missing, e.g. {lacking[0]}")


def _check_lengths(config: EncoderConfig, model: Any) -> None:
    positions = getattr(model.config, "max_position_embeddings", math.inf)
    table: Any = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if getattr(table, "padding_idx", None) is not None:  # RoBERTa and its relatives count from there
        positions -= table.padding_idx + 1
    for kind in get_args(TextKind):
        length = prefix_and_length(config, kind)[1]
        if length > positions:
            raise EncoderError(f"encoder.{kind}_max_length: {config.name} reads at most {positions}, got {length}")


def _check_lexical_features(config: EncoderConfig, model: Any) -> None:
    if not config.words:  # some encoders have no word embeddings
        return
    states, words = int(model.config.hidden_size), int(model.get_input_embeddings().weight.shape[1])
    if states != words:  # the store keeps the two as halves of a vector
        raise EncoderError(
            f"encoder.words: {config.name}: its word embeddings are {words} wide, its states {states}: must be 0"
        )


def _pool_mean(states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)

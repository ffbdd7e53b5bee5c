"""The frozen text encoder: texts -> token states and one pooled vector each, without torch where a runtime has none.

It decides how texts are cut, batched and joined with their lexical features. It does not know where an encoder's files
are (`encoder_files.py`), what computes its transformer (`runtimes/`), nor where encodings are kept
(`encoding_store.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from retreever.config import EncoderConfig
from retreever.encoding.encoder_export import EncoderExport, open_encoder_export
from retreever.encoding.encoder_files import prefix_and_length
from retreever.encoding.lexical_features import LexicalFeatures
from retreever.encoding.runtimes.choose_runtime import Runtime, open_runtime
from retreever.encoding.tokenized_texts import TextKind, TokenizedTexts
from retreever.errors import EncoderError
from retreever.system.progress import Track, track_silently


@dataclass(frozen=True)
class EncodedBatch:
    """Encodings of some texts.

    Attributes:
        rows: rows of these texts in the list that was encoded, int64 (batch,).
        pooled: (batch, dim) float32. Where the encoder normalises, they have length one, and the states are divided by
            the same number; so with mean pooling the mean of a text's states is its pooled vector.
        states: token states, (batch, length, dim) float32; with `encoder.words` each has its lexical features
            concatenated. None where they were not asked for.
        mask: true where a state belongs to a token, bool (batch, length).
    """

    rows: np.ndarray
    pooled: np.ndarray
    states: np.ndarray | None
    mask: np.ndarray


class Encoder:
    """A transformer with its tokenizer and settings; `load` makes one. Several threads may call it at a time.

    Args:
        export: tokenizer, word embeddings and facts.
        runtime: computes the transformer.
    """

    def __init__(self, config: EncoderConfig, export: EncoderExport, runtime: Runtime):
        self.config, self.export, self.runtime = config, export, runtime
        self._tokenizer = export.read_tokenizer()
        self._lexical_features = None
        if config.words:
            self._lexical_features = LexicalFeatures(export.map_words(), export.facts.special, config.words)

    @classmethod
    def load(
        cls, config: EncoderConfig, device: str = "cpu", threads: int | None = None, exports: Path | None = None
    ) -> "Encoder":
        """Load the encoder that `config.name` names, see `locate_encoder`. Its export is made now where there is none.

        Args:
            device: a torch device; anything but `cpu` is computed by torch.
            threads: CPU threads of the runtime; None: those of torch where it is loaded, else all processors.
            exports: folder of exports; the default workspace's where it is None.

        Raises:
            EncoderError: there is no such encoder, its files cannot be read or lack weights, it has fewer positions
                than the configured lengths, its word embeddings are not as wide as its states, or the configured
                runtime cannot compute it.
        """
        export = open_encoder_export(config, exports, graph=device == "cpu" and config.runtime != "torch")
        _check_lengths(config, export.facts.positions)
        return cls(config, export, open_runtime(config, export, device, threads))

    @property
    def dim(self) -> int:
        """Width of token states and pooled vectors."""
        return self.export.facts.hidden + (self._lexical_features.width if self._lexical_features else 0)

    def tokenize(self, texts: Sequence[str], kind: TextKind) -> TokenizedTexts:
        """Tokenize texts with prefix, special tokens and truncation as configured.

        Raises:
            EncoderError: a text has no token.
        """
        prefix, length = prefix_and_length(self.config, kind)
        side = self.config.query_truncation if kind == "query" else "right"
        keep_whole = self._lexical_features is not None  # they are cheap, however long a text is
        tokenized = self._tokenizer.tokenize([prefix + text for text in texts], length, side, keep_whole)
        empty = np.flatnonzero(tokenized.lengths == 0)
        if len(empty):
            raise EncoderError(f"{kind} {empty[0]}: the tokenizer finds no token in {texts[empty[0]][:60]!r}")
        return tokenized

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
        self, tokenized: TokenizedTexts, states: bool, track: Track = track_silently, label: str = "encoding"
    ) -> Iterator[EncodedBatch]:
        """Encode all texts, batch by batch.

        Args:
            states: return token states too.
        """
        plan = self.plan_batches(tokenized)
        for rows in track(plan, label, total=len(plan)):
            yield self._encode_batch(rows, tokenized, states)

    def encode(self, texts: Sequence[str], kind: TextKind, states: bool) -> Iterator[EncodedBatch]:
        """Tokenize and encode texts; batches come longest first, `EncodedBatch.rows` names their texts.

        Args:
            states: return token states too.

        Raises:
            EncoderError: a text has no token.
        """
        return self.encode_batches(self.tokenize(texts, kind), states)

    def _encode_batch(self, rows: np.ndarray, tokenized: TokenizedTexts, wanted: bool) -> EncodedBatch:
        ids, mask = tokenized.pad_rows(rows, self.export.facts.pad)
        pooled, *more = self.runtime.run({"ids": ids, "mask": mask}, ("pooled", "states") if wanted else ("pooled",))
        states = more[0] if more else None
        if self._lexical_features and tokenized.untruncated:
            whole = tokenized.untruncated.select(rows)
            pooled, states = self._lexical_features.concatenate(pooled, states, ids, tokenized.lengths[rows], whole)
        return EncodedBatch(rows, pooled, states, mask)

    def encode_pooled(self, texts: Sequence[str], kind: TextKind) -> np.ndarray:
        """Pooled vectors, float32 (texts, dim), in the order given."""
        out = np.empty((len(texts), self.dim), np.float32)
        for encoded in self.encode(texts, kind, states=False):
            out[encoded.rows] = encoded.pooled
        return out

    def encode_tokens(self, texts: Sequence[str], kind: TextKind) -> tuple[np.ndarray, np.ndarray]:
        """Token states float32 (texts, length, dim), zero where there is no token, and their mask (texts, length)."""
        return self.encode_states(self.tokenize(texts, kind))

    def encode_states(self, tokenized: TokenizedTexts) -> tuple[np.ndarray, np.ndarray]:
        """As `encode_tokens`, for tokenized texts."""
        shape = len(tokenized.lengths), int(tokenized.lengths.max(initial=0))
        states, mask = np.zeros((*shape, self.dim), np.float32), np.zeros(shape, bool)
        for encoded in self.encode_batches(tokenized, states=True):
            assert encoded.states is not None
            length = encoded.mask.shape[1]
            states[encoded.rows, :length] = encoded.states * encoded.mask[..., None]
            mask[encoded.rows, :length] = encoded.mask
        return states, mask


def _check_lengths(config: EncoderConfig, positions: int | None) -> None:
    for kind in get_args(TextKind):
        length = prefix_and_length(config, kind)[1]
        if positions is not None and length > positions:
            raise EncoderError(f"encoder.{kind}_max_length: {config.name} reads at most {positions}, got {length}")

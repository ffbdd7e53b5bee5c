"""A retrieval data set: passages, and where it has them, queries and judgements of which passage answers which query.

It decides the invariants that every data set keeps. It knows neither where texts come from (`beir.py`, `hub.py`,
`docstrings.py`) nor how they are encoded.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from retreever.errors import DataError

DATASET_SPLITS = ("train", "dev", "test")
FORBIDDEN_IN_IDS = re.compile(r"[\t\n\r]")  # a tab-separated file cannot hold an id with one of these


@dataclass(frozen=True)
class Passage:
    """A text to retrieve."""

    id: str
    text: str
    title: str = ""
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def full_text(self) -> str:
        """Title and text, as the encoder reads them.

        >>> Passage("p", "Twelve legs.", title="Lithodes").full_text
        'Lithodes Twelve legs.'
        """
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True)
class Query:
    """A text that asks."""

    id: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, eq=False)
class RetrievalDataset:
    """Passages, queries and relevance judgements by split.

    Ids are unique, not empty and free of tabs and line breaks; no text is blank; every text can be written as
    UTF-8; every judgement points to a row that exists. Two data sets are equal when name, texts and
    judgements are; skipped lines are not compared.

    Args:
        queries: none in a corpus alone.
        qrels: by split (train, dev, test; each optional): int64 (n, 3), rows of query row, passage row and
            score; a score above 0 means relevant.
        skipped: number of lines skipped while reading, by file and rule.

    Raises:
        DataError: an invariant does not hold.
    """

    name: str
    corpus: tuple[Passage, ...]
    queries: tuple[Query, ...]
    qrels: dict[str, np.ndarray]
    skipped: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_texts(f"{self.name}: passage", [p.id for p in self.corpus], self.passage_texts())
        _check_texts(f"{self.name}: query", [q.id for q in self.queries], self.query_texts())
        for split, rows in self.qrels.items():
            _check_qrels(f"{self.name}: qrels of {split!r}", split, rows, len(self.queries), len(self.corpus))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RetrievalDataset):
            return NotImplemented
        return (
            (self.name, self.corpus, self.queries) == (other.name, other.corpus, other.queries)
            and self.qrels.keys() == other.qrels.keys()
            and all(np.array_equal(rows, other.qrels[split]) for split, rows in self.qrels.items())
        )

    def passage_texts(self) -> list[str]:
        """Title and text of every passage, in row order."""
        return [passage.full_text for passage in self.corpus]

    def query_texts(self) -> list[str]:
        """Every query, in row order."""
        return [query.text for query in self.queries]

    def has_pairs(self, split: str) -> bool:
        """Whether a split is there and has a relevant pair."""
        return split in self.qrels and bool((self.qrels[split][:, 2] > 0).any())

    def require_pairs(self, split: str, use: str) -> None:
        """Check that a split has a relevant pair.

        Args:
            use: why it is needed, for the message.

        Raises:
            DataError: it has none, or is not there.
        """
        if not self.has_pairs(split):
            raise DataError(f"data set {self.name}: qrels/{split}.tsv is missing or empty; {use}")

    def pairs(self, split: str) -> np.ndarray:
        """Relevant (query row, passage row) pairs of a split, (n, 2), int64, sorted by query, then passage.

        Raises:
            DataError: the data set has no such split.
        """
        if split not in self.qrels:
            raise DataError(f"{self.name}: no split {split!r}; there are: {', '.join(self.qrels) or 'none'}")
        rows = self.qrels[split]
        rows = rows[rows[:, 2] > 0, :2]
        return rows[np.lexsort((rows[:, 1], rows[:, 0]))]

    @cached_property
    def digest(self) -> str:
        """Short digest (16 hex digits) of ids, titles, texts and judgements, the same on every machine.

        Name, metadata and the count of skipped lines do not enter it.
        """
        hasher = hashlib.sha256()
        for strings in (
            (p.id for p in self.corpus),
            (p.title for p in self.corpus),
            (p.text for p in self.corpus),
            (q.id for q in self.queries),
            (q.text for q in self.queries),
        ):
            _hash_strings(hasher, strings)
        for split in DATASET_SPLITS:
            rows = self.qrels.get(split)
            if rows is not None:
                _hash_strings(hasher, (split, str(len(rows))))
                hasher.update(rows.astype("<i8").tobytes())
        return hasher.hexdigest()[:16]


def _hash_strings(hasher: Any, strings: Iterable[str]) -> None:
    """Hash the strings' lengths, then the strings, so that ("ab", "c") and ("a", "bc") differ."""
    encoded = [string.encode() for string in strings]
    hasher.update(np.array([len(encoded), *map(len, encoded)], dtype="<i8").tobytes())
    hasher.update(b"".join(encoded))


def _check_texts(kind: str, ids: Sequence[str], texts: Sequence[str]) -> None:
    if len(set(ids)) != len(ids):
        repeated = Counter(ids).most_common(1)[0][0]
        raise DataError(f"{kind} {repeated!r}: the id occurs twice, ids must be unique")
    for identity, text in zip(ids, texts, strict=True):
        if not identity or FORBIDDEN_IN_IDS.search(identity):
            raise DataError(f"{kind} {identity!r}: an id must not be empty nor hold tabs or line breaks")
        if not text or text.isspace():
            raise DataError(f"{kind} {identity!r}: the text is empty")
        if not (is_valid_utf8(text) and is_valid_utf8(identity)):
            raise DataError(f"{kind} {identity!r}: holds an unpaired surrogate, which is no character")


def is_valid_utf8(text: str) -> bool:
    r"""Whether UTF-8 can encode a string; it cannot encode an unpaired surrogate.

    >>> is_valid_utf8("\U0001f333"), is_valid_utf8("\ud83c")
    (True, False)
    """
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_qrels(where: str, split: str, rows: np.ndarray, queries: int, passages: int) -> None:
    if split not in DATASET_SPLITS:
        raise DataError(f"{where}: a split must be one of {', '.join(DATASET_SPLITS)}")
    if rows.dtype != np.int64 or rows.ndim != 2 or rows.shape[1] != 3:
        raise DataError(f"{where}: must be int64 of shape (n, 3), got {rows.dtype} of shape {rows.shape}")
    beyond = (rows[:, :2] < 0) | (rows[:, :2] >= (queries, passages))
    if beyond.any():
        row = rows[beyond.any(axis=1)][0].tolist()
        raise DataError(f"{where}: {row} points beyond {queries} queries and {passages} passages")

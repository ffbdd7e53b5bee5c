"""From rows of (query, passage) texts to a data set.

Decides what counts as one text: the same words are the same query, or the same passage, in every row and
split, so that a passage can answer several queries and a query can have several passages. Does not know where
rows come from.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retreever.data.bad_lines import BadLine, Faults, OnBad, identity, string
from retreever.data.dataset import SPLITS, Passage, Query, RetrievalDataset
from retreever.errors import DataError


@dataclass(frozen=True)
class Row:
    """A query and a passage that answers it, as found and not yet checked.

    Args:
        split: ours: train, dev or test.
        source: the source's name of the split, under which faults are counted.
        number: row within it, from 0.
        query_id, passage_id: None where the source has none; then q0, q1, ... and p0, p1, ... are given.
    """

    split: str
    source: str
    number: int
    query: Any
    passage: Any
    title: Any = ""
    query_id: Any = None
    passage_id: Any = None


@dataclass
class _Texts:
    """Distinct texts in order of appearance, and which id stands for which."""

    kind: str
    rows: dict[tuple[str, ...], int] = field(default_factory=dict)
    ids: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def name(self, value: Any, text: tuple[str, ...]) -> str:
        """The id of a text: its first one where it is known, else the given or the next free one."""
        if value is None:
            return f"{self.kind[0]}{self.rows.get(text, len(self.rows))}"
        given = identity(value, f"id of the {self.kind}")
        if self.ids.get(given, text) != text:
            raise BadLine(f"id of the {self.kind} stands for two texts", f"{given!r}")
        return given

    def row(self, name: str, text: tuple[str, ...]) -> int:
        if text not in self.rows:
            self.rows[text] = len(self.rows)
            self.ids[name] = text
        return self.rows[text]


def assemble(
    name: str,
    path: object,
    rows: Iterable[Row],
    on_bad: OnBad = "refuse",
    dropped: Mapping[str, int] | None = None,
) -> RetrievalDataset:
    """Put rows together; every judgement is a 1. Titles count as part of a passage's words.

    Args:
        path: where the rows come from, for messages.
        dropped: rows that the source left out on purpose, counted; read when all rows have passed.

    Raises:
        DataError: a query or passage that is empty, no text or no UTF-8, or an id that stands for two texts,
            with split, row and rule (`on_bad="skip"` counts these); or no row at all.
    """
    faults = Faults(on_bad)
    queries, passages = _Texts("query"), _Texts("passage")
    judged: dict[str, dict[tuple[int, int], None]] = {}
    for row in rows:
        try:
            query, passage = (
                (_filled(row.query, "query"),),
                (string(row.title, "title"), _filled(row.passage, "passage")),
            )
            names = queries.name(row.query_id, query), passages.name(row.passage_id, passage)
        except BadLine as bad:
            faults.add(row.source, f"{path}: split {row.source!r}, row {row.number}", bad)
            continue
        pair = queries.row(names[0], query), passages.row(names[1], passage)
        judged.setdefault(row.split, {})[pair] = None
    if not judged:
        raise DataError(f"{path}: no usable row")
    return RetrievalDataset(
        name=name,
        corpus=tuple(Passage(id, text, title) for id, (title, text) in passages.ids.items()),
        queries=tuple(Query(id, text) for id, (text,) in queries.ids.items()),
        qrels={split: _table(judged[split]) for split in SPLITS if split in judged},
        skipped={**faults.counts, **(dropped or {})},
    )


def _filled(value: Any, what: str) -> str:
    text = "" if value is None else string(value, what)
    if not text.strip():
        raise BadLine(f"{what} is empty")
    return text


def _table(pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    return np.array([(query, passage, 1) for query, passage in pairs], dtype=np.int64)

"""From rows of (query, passage) texts to a data set.

It decides what counts as one text: equal words are the same query, or the same passage, in every row and split. So a
passage can answer several queries, and a query can have several passages. It does not know where rows come from.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retreever.data.bad_lines import BadLine, BadLineHandler, OnBad, parse_id, require_string
from retreever.data.dataset import DATASET_SPLITS, Passage, Query, RetrievalDataset
from retreever.errors import DataError


@dataclass(frozen=True)
class RawPair:
    """A query and a passage that answers it, as read and not yet checked.

    Args:
        split: train, dev or test.
        source: the source's own name of the split; faults are counted under it.
        number: row within that split, from 0.
        query_id, passage_id: None where the source has none; ids are then q0, q1, ... and p0, p1, ...
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
class _DistinctTexts:
    """Distinct texts in order of appearance, and their ids."""

    kind: str
    rows: dict[tuple[str, ...], int] = field(default_factory=dict)
    ids: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def resolve_id(self, value: Any, text: tuple[str, ...]) -> str:
        """The checked id of a text; where `value` is None, the letter of its kind and its row, e.g. q0."""
        if value is None:
            return f"{self.kind[0]}{self.rows.get(text, len(self.rows))}"
        given = parse_id(value, f"id of the {self.kind}")
        if self.ids.get(given, text) != text:
            raise BadLine(f"id of the {self.kind} stands for two texts", f"{given!r}")
        return given

    def row_of(self, name: str, text: tuple[str, ...]) -> int:
        if text not in self.rows:
            self.rows[text] = len(self.rows)
            self.ids[name] = text
        return self.rows[text]


def assemble_dataset(
    name: str,
    path: object,
    rows: Iterable[RawPair],
    on_bad: OnBad = "refuse",
    omitted: Mapping[str, int] | None = None,
) -> RetrievalDataset:
    """Assemble rows into a data set; every judgement is a 1. A title counts as part of its passage.

    Args:
        path: origin of the rows, for messages.
        omitted: number of rows that the source omitted on purpose, by reason; read after the last row.

    Raises:
        DataError: a query or passage that is empty, not a string or not UTF-8, or an id of two texts, with
            split, row and rule (`on_bad="skip"` counts these); or no usable row.
    """
    faults = BadLineHandler(on_bad)
    queries, passages = _DistinctTexts("query"), _DistinctTexts("passage")
    pairs_by_split: dict[str, dict[tuple[int, int], None]] = {}
    for row in rows:
        try:
            query, passage = (
                (_require_text(row.query, "query"),),
                (require_string(row.title, "title"), _require_text(row.passage, "passage")),
            )
            names = queries.resolve_id(row.query_id, query), passages.resolve_id(row.passage_id, passage)
        except BadLine as bad:
            faults.add(row.source, f"{path}: split {row.source!r}, row {row.number}", bad)
            continue
        pair = queries.row_of(names[0], query), passages.row_of(names[1], passage)
        pairs_by_split.setdefault(row.split, {})[pair] = None
    if not pairs_by_split:
        raise DataError(f"{path}: no usable row")
    return RetrievalDataset(
        name=name,
        corpus=tuple(Passage(id, text, title) for id, (title, text) in passages.ids.items()),
        queries=tuple(Query(id, text) for id, (text,) in queries.ids.items()),
        qrels={split: _build_qrels(pairs_by_split[split]) for split in DATASET_SPLITS if split in pairs_by_split},
        skipped={**faults.counts, **(omitted or {})},
    )


def _require_text(value: Any, what: str) -> str:
    text = "" if value is None else require_string(value, what)
    if not text.strip():
        raise BadLine(f"{what} is empty")
    return text


def _build_qrels(pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    return np.array([(query, passage, 1) for query, passage in pairs], dtype=np.int64)

"""Several data sets joined into one, to train a tree on many sources.

It decides how ids stay unique: `SET/ID`. A text that two sets share stays two passages.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from retreever.data.dataset import DATASET_SPLITS, RetrievalDataset

DATASET_NAME_SEPARATOR = "+"
"""Separates the names of joined data sets."""


def join_datasets(datasets: Sequence[RetrievalDataset]) -> RetrievalDataset:
    """Join passages, queries and judgements of `datasets`, in that order; a single data set is returned unchanged.

    >>> from retreever.data.dataset import Passage, Query
    >>> one, two = (
    ...     RetrievalDataset(name, (Passage("p", "text"),), (Query("q", "text"),), {"train": np.array([[0, 0, 1]])})
    ...     for name in ("a", "b")
    ... )
    >>> joined = join_datasets([one, two])
    >>> joined.name, [p.id for p in joined.corpus], joined.pairs("train").tolist()
    ('a+b', ['a/p', 'b/p'], [[0, 0], [1, 1]])
    """
    if len(datasets) == 1:
        return datasets[0]
    return RetrievalDataset(
        DATASET_NAME_SEPARATOR.join(d.name for d in datasets),
        tuple(dataclasses.replace(p, id=f"{d.name}/{p.id}") for d in datasets for p in d.corpus),
        tuple(dataclasses.replace(q, id=f"{d.name}/{q.id}") for d in datasets for q in d.queries),
        {split: rows for split in DATASET_SPLITS if (rows := _shift_judgements(datasets, split)) is not None},
        {f"{d.name}/{fault}": count for d in datasets for fault, count in d.skipped.items()},
    )


def _shift_judgements(datasets: Sequence[RetrievalDataset], split: str) -> np.ndarray | None:
    """Judgements of a split with rows counted over all data sets; None where no set has it."""
    queries, passages = (np.cumsum([0, *sizes]) for sizes in _count_texts(datasets))
    parts = [
        d.qrels[split] + np.array([queries[i], passages[i], 0]) for i, d in enumerate(datasets) if split in d.qrels
    ]
    return np.concatenate(parts) if parts else None


def _count_texts(datasets: Sequence[RetrievalDataset]) -> tuple[list[int], list[int]]:
    return [len(d.queries) for d in datasets], [len(d.corpus) for d in datasets]

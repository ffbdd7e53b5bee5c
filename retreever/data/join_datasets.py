"""Several data sets as one: to train one tree on many sources, and ask it about others.

Decides how ids stay unique: `SET/ID`. Texts that two sets share stay two passages.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from retreever.data.dataset import SPLITS, RetrievalDataset

PLUS = "+"
"""Stands between the names of data sets that are read as one."""


def join(datasets: Sequence[RetrievalDataset]) -> RetrievalDataset:
    """Passages, queries and judgements of `datasets`, in that order; a single one is returned as it is.

    >>> from retreever.data.dataset import Passage, Query
    >>> one, two = (
    ...     RetrievalDataset(name, (Passage("p", "text"),), (Query("q", "text"),), {"train": np.array([[0, 0, 1]])})
    ...     for name in ("a", "b")
    ... )
    >>> joined = join([one, two])
    >>> joined.name, [p.id for p in joined.corpus], joined.pairs("train").tolist()
    ('a+b', ['a/p', 'b/p'], [[0, 0], [1, 1]])
    """
    if len(datasets) == 1:
        return datasets[0]
    return RetrievalDataset(
        PLUS.join(d.name for d in datasets),
        tuple(dataclasses.replace(p, id=f"{d.name}/{p.id}") for d in datasets for p in d.corpus),
        tuple(dataclasses.replace(q, id=f"{d.name}/{q.id}") for d in datasets for q in d.queries),
        {split: rows for split in SPLITS if (rows := _moved(datasets, split)) is not None},
        {f"{d.name}/{fault}": count for d in datasets for fault, count in d.skipped.items()},
    )


def _moved(datasets: Sequence[RetrievalDataset], split: str) -> np.ndarray | None:
    """Judgements of a split with rows counted over all data sets; None where no set has it."""
    queries, passages = (np.cumsum([0, *sizes]) for sizes in _sizes(datasets))
    parts = [
        d.qrels[split] + np.array([queries[i], passages[i], 0]) for i, d in enumerate(datasets) if split in d.qrels
    ]
    return np.concatenate(parts) if parts else None


def _sizes(datasets: Sequence[RetrievalDataset]) -> tuple[list[int], list[int]]:
    return [len(d.queries) for d in datasets], [len(d.corpus) for d in datasets]

"""Reciprocal rank fusion of similarity and BM25 (Cormack and others, 2009): what many search engines offer as a hybrid.

A passage's score is the sum of 1 / (10 + its rank) over both rankings, each cut at its first hundred passages or at k.
It ignores by how much one passage is better than the next, so a sum of scores ranks better; nor can it be certified.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from retreever.index.index_state import IndexFilter
from retreever.index.lexical.hybrid_query import LARGEST_HYBRID_WEIGHT, Hybrid

if TYPE_CHECKING:
    from retreever.index.tree_index import NumbersAndScores, TreeIndex

RANK_CONSTANT, FUSED_PASSAGES = 10, 100


def search_by_ranks(
    index: "TreeIndex",
    queries: np.ndarray,
    hybrid: Hybrid,
    k: int,
    level: int,
    where: IndexFilter | None = None,
    threads: int | None = None,
) -> "NumbersAndScores":
    """The k best passages by the sum of reciprocal ranks; equal sums by id. Arguments are those of `TreeIndex.search`.

    The ranking by BM25 has only passages with a word of the query.
    """
    looked_at = max(k, FUSED_PASSAGES)
    by_similarity, _ = index.search(queries, looked_at, level, where=where, threads=threads)
    words = replace(hybrid, weight=LARGEST_HYBRID_WEIGHT, by_ranks=False)  # so that similarity only decides ties
    by_words, _ = index.search(queries, looked_at, level, where=where, threads=threads, hybrid=words)
    added = index.explain_words(words, by_words, level)
    numbers = np.empty((len(queries), min(k, by_similarity.shape[1])), np.int64)
    scores = np.empty(numbers.shape, np.float32)
    for i, found in enumerate(by_similarity):
        matched = [number for number, words_of in zip(by_words[i].tolist(), added[i], strict=True) if words_of]
        fused = _add_reciprocal_ranks([found.tolist(), matched])
        names = dict(zip(fused, index.find_ids(fused), strict=True))
        best = sorted(fused, key=lambda number: (-fused[number], names[number]))[: numbers.shape[1]]
        numbers[i], scores[i] = best, [fused[number] for number in best]
    return numbers, scores


def _add_reciprocal_ranks(rankings: Sequence[Sequence[int]]) -> dict[int, float]:
    sums: dict[int, float] = {}
    for ranking in rankings:
        for rank, number in enumerate(ranking, 1):
            sums[number] = sums.get(number, 0.0) + 1 / (RANK_CONSTANT + rank)
    return sums

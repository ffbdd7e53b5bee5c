"""The k best passages of every query, by brute force: the reference for every faster search.

Decides the order of equal scores (the lower passage row first), so that two runs give the same ranking. Works in
blocks, so memory does not grow with queries times passages. Knows nothing about trees: a row is any vector.
"""

from collections.abc import Callable
from typing import Literal

import numba
import numpy as np
import torch
from jaxtyping import Float, Int

SimilarityName = Literal["inner", "bhattacharyya", "ntvd"]
AddedToScores = Callable[[slice], Float[np.ndarray, "queries passages"]]
"""What is added to the similarities of a slice of some queries to all passages."""
QUERIES_PER_BLOCK, PASSAGES_PER_BLOCK = 256, 65_536  # a block of scores: 64 MiB of float32


def top_k(
    queries: Float[np.ndarray, "queries dim"],
    passages: Float[np.ndarray, "passages dim"],
    k: int,
    similarity: SimilarityName,
) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
    """Find rows and scores of the k most similar passages, best first; equal scores by row. Exact.

    Args:
        k: passages to return; all of them where fewer exist.
        similarity: `inner` for any vectors. For vectors of probabilities `bhattacharyya`, the sum of
            sqrt(a * b), in [0, 1], and `ntvd`, the sum of min(a, b) minus one, in [-1, 0].

    >>> rows, scores = top_k(np.float32([[0.9, 0.1]]), np.float32([[0.2, 0.8], [0.8, 0.2]]), 1, "ntvd")
    >>> rows.tolist(), scores.round(4).tolist()
    ([[1]], [[-0.10000000149011612]])
    """
    k = min(k, len(passages))
    rows = np.empty((len(queries), k), np.int64)
    scores = np.empty((len(queries), k), np.float32)
    buffer = np.empty(min(QUERIES_PER_BLOCK, len(queries)) * min(PASSAGES_PER_BLOCK, len(passages)), np.float32)
    for first in range(0, len(passages), PASSAGES_PER_BLOCK):
        block = _prepare_vectors(passages[first : first + PASSAGES_PER_BLOCK], similarity)
        for start in range(0, len(queries), QUERIES_PER_BLOCK):
            part = slice(start, start + QUERIES_PER_BLOCK)
            some = _prepare_vectors(queries[part], similarity)
            out = buffer[: len(some) * len(block)].reshape(len(some), len(block))
            new_rows, new_scores = select_top_k(_score_block(some, block, similarity, out), k)
            seen, known = min(first, k), min(first + len(block), k)
            rows[part, :known], scores[part, :known] = _merge_top_k(
                rows[part, :seen], scores[part, :seen], new_rows + first, new_scores, k
            )
    return rows, scores


def rank_sums(
    queries: Float[np.ndarray, "queries dim"],
    passages: Float[np.ndarray, "passages dim"],
    k: int,
    similarity: SimilarityName,
    added: AddedToScores,
) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
    """As `top_k`, by the sum of similarity and what `added` returns for a slice of the queries."""
    ranked, found = _prepare_vectors(passages, similarity), []
    size = max(1, QUERIES_PER_BLOCK * PASSAGES_PER_BLOCK // max(1, len(passages)))
    for start in range(0, len(queries), size):
        part = slice(start, min(start + size, len(queries)))
        some = _prepare_vectors(queries[part], similarity)
        scores = _score_block(some, ranked, similarity, np.empty((len(some), len(ranked)), np.float32))
        found.append(select_top_k(scores + added(part), k))
    rows, values = zip(*found or [select_top_k(np.empty((0, len(passages)), np.float32), k)], strict=True)
    return np.concatenate(rows), np.concatenate(values)


def select_top_k(
    scores: Float[np.ndarray, "queries passages"], k: int
) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
    """Find columns and values of the k highest scores in each row, highest first; equal values by column.

    >>> select_top_k(np.float32([[1, 3, 3, 2]]), 3)[0].tolist()
    [[1, 2, 3]]
    """
    k = min(k, scores.shape[1])
    if k == 0 or not len(scores):
        return np.empty((len(scores), k), np.int64), np.empty((len(scores), k), np.float32)
    values, chosen = (t.numpy() for t in torch.topk(torch.from_numpy(scores), k, sorted=False))
    last = values.min(axis=1, keepdims=True)
    for i in np.flatnonzero((scores >= last).sum(axis=1) > k):  # topk picks any of those that tie for the last rank
        above = np.flatnonzero(scores[i] > last[i])
        chosen[i] = np.concatenate([above, np.flatnonzero(scores[i] == last[i])[: k - len(above)]])
    chosen.sort(axis=1)
    values = np.take_along_axis(scores, chosen, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1), np.take_along_axis(values, order, axis=1)


def _prepare_vectors(vectors: np.ndarray, similarity: SimilarityName) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    return np.sqrt(vectors) if similarity == "bhattacharyya" else vectors


def _score_block(queries: np.ndarray, passages: np.ndarray, similarity: SimilarityName, out: np.ndarray) -> np.ndarray:
    if similarity == "ntvd":
        sum_of_min(queries, passages, out)
        out -= 1
        return out
    return np.matmul(queries, passages.T, out=out)


def _merge_top_k(
    rows: np.ndarray, scores: np.ndarray, new_rows: np.ndarray, new_scores: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best k of two rankings, (queries, k) and (queries, new); rows of the first precede the second's.

    Each ranking orders equal scores by row already, so the stable sort of the joined columns orders ties by row.
    """
    rows, scores = np.hstack([rows, new_rows]), np.hstack([scores, new_scores])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)


@numba.njit(nogil=True, fastmath=True, cache=True)
def sum_of_min(queries, passages, out):
    """Fill out (queries, passages) with sum_l min(a_l, b_l); for vectors that sum to one, nTVD + 1."""
    for j in range(passages.shape[0]):
        for i in range(queries.shape[0]):
            total = np.float32(0)
            for leaf in range(queries.shape[1]):
                a, b = queries[i, leaf], passages[j, leaf]
                total += a if a < b else b
            out[i, j] = total

"""Codes of vectors of length one: float32, float16, int8, product quantisers and RaBitQ.

    float32, float16    4 and 2 bytes per number
    int8                1 byte per number: 256 even steps from the least to the greatest value of each dimension
    pqM                 M bytes per vector: its 4 M main directions, rotated at random to balance the parts; in each of
                        M parts the nearest of 256 centroids (Jégou 2011)
    opqM                M bytes per vector: as pqM, with the rotation that is fitted to the parts (Ge 2013)
    rabitqB             B bits per dimension, rotated at random, and a few numbers that correct the estimate (Gao 2024)

A vector with code c is scored by its distance from the query q, 1 - |q - c|**2 / 2, which is the cosine where the code
loses nothing. The inner product with c errs more: it counts the part of c's error along the direction that all vectors
share. For vectors as close together as a tree's leaves, that part outweighs their differences. RaBitQ estimates that
distance without decoding.
"""

import re
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from retreever.baselines.baseline import FLOAT32_CODE, Ranking
from retreever.evaluation.ranking import top_k
from retreever.system.extras import import_extra

CODE_REVISION = 2  # of these codes; cached figures of another revision are not comparable
PQ_CODE_PATTERN = re.compile(r"(o?)pq(\d+)")
RABITQ_CODE_PATTERN = re.compile(r"rabitq([1-8])")
DIRECTIONS_PER_BYTE = 4  # main directions: with more, each gets too few bits; with fewer, more is lost than gained
QUANTIZER_TRAINING_VECTORS = 8_192  # 32 per centroid
QUANTIZER_KMEANS_ITERATIONS = 6
OPQ_ITERATIONS = 10  # of rotation and centroids in turn
RABITQ_QUERY_BITS = 8  # per dimension of a query
RABITQ_PASSAGES_PER_BLOCK = 32  # of faiss's kernel
MIN_QUERIES_TO_DECODE = 32  # from so many queries on, decoding all codes once is faster


class VectorCodes:
    """Vectors in a code.

    Args:
        code: `float32`, `float16`, `int8`, `pqM` or `opqM`, where M divides the width of the vectors, or `rabitqB`.
        seed: of the sample and the rotation that a quantiser is trained with.
    """

    def __init__(self, vectors: Float[np.ndarray, "n dim"], code: str = FLOAT32_CODE, seed: int = 0):
        vectors = np.ascontiguousarray(vectors, np.float32)
        self._is_float32, self._is_estimate = code == FLOAT32_CODE, code.startswith("rabitq")
        self._vectors, self._code, self._seed = vectors, code, seed
        self._transform: Any = None  # of coordinates, before coding
        self._coded_index: Any = None
        if not self._is_float32:
            _ = self._index
            del self._vectors  # the codes replace them

    @cached_property
    def _index(self) -> Any:
        """faiss's index. For float32 it is built for the first small batch; large batches use a matrix product."""
        index = self._make_index(self._vectors, self._code, self._seed)
        self._coded_index = self._coded_index or index
        if not index.is_trained:
            rows = np.random.default_rng(self._seed).permutation(len(self._vectors))[:QUANTIZER_TRAINING_VECTORS]
            index.train(self._vectors[np.sort(rows)])
        index.add(self._vectors)
        return index

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of one code, without the tables that all vectors share."""
        return 4 * self._vectors.shape[1] if self._is_float32 else int(self._index.sa_code_size())

    def decode(self) -> Float[np.ndarray, "n dim"]:
        """Decode the codes into float32 vectors."""
        return self._vectors if self._is_float32 else np.asarray(self._index.reconstruct_n(0, self._index.ntotal))

    def decode_rows(self, rows: Int[np.ndarray, " some"]) -> Float[np.ndarray, "some dim"]:
        """Decode the codes of some vectors."""
        return self._vectors[rows] if self._is_float32 else np.asarray(self._index.reconstruct_batch(rows))

    def search(self, queries: Float[np.ndarray, "queries dim"], k: int) -> Ranking:
        """Find rows and scores of the best k, equal scores by row.

        Many queries are multiplied with the decoded vectors, which gives the sums that faiss forms one by one.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        many = len(queries) >= MIN_QUERIES_TO_DECODE and not self._is_estimate
        if many or (self._is_float32 and find_spec("faiss") is None):
            return self._search_all(queries, k)
        k = min(k, self._index.ntotal)
        found, rows = self._index.search(queries, k)
        scores = found if self._is_float32 else 1 - found / 2
        order = np.lexsort((rows, -scores))
        return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)

    def score_all(self, queries: Float[np.ndarray, "queries dim"]) -> Float[np.ndarray, "queries n"]:
        """Score every vector for every query, as `search` does; not for `rabitqB`, whose estimates faiss keeps."""
        queries = np.ascontiguousarray(queries, np.float32)
        if self._is_float32:
            return np.asarray(queries @ self._vectors.T)
        if len(queries) >= MIN_QUERIES_TO_DECODE:
            left, right, offset = self._as_product(queries)
            return np.asarray(left @ right.T + offset)
        limits, distances, rows = self._index.range_search(queries, float("inf"))
        scores = np.empty((len(queries), self._index.ntotal), np.float32)
        scores[np.repeat(np.arange(len(queries)), np.diff(limits.astype(np.int64))), rows] = 1 - distances / 2
        return scores

    def _search_all(self, queries: np.ndarray, k: int) -> Ranking:
        if self._is_float32:
            return top_k(queries, self.decode(), k, "inner")
        left, right, offset = self._as_product(queries)
        rows, scores = top_k(left, right, k, "inner")
        return rows, scores + offset

    def _as_product(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Vectors whose inner product, plus an offset for each query, is the score."""
        coded = self._coded_index.reconstruct_n(0, self._coded_index.ntotal)
        if self._transform is not None:
            queries = self._transform.apply(queries)
        half = np.square(coded).sum(1, keepdims=True) / 2
        ones = np.ones((len(queries), 1), np.float32)
        offset = 1 - np.square(queries).sum(1, keepdims=True) / 2
        return np.hstack([queries, ones]), np.hstack([coded, -half]), offset

    def _make_index(self, vectors: np.ndarray, code: str, seed: int) -> Any:
        faiss = import_extra("faiss", "baselines")
        dim = vectors.shape[1]
        if code == FLOAT32_CODE:
            return faiss.IndexFlatIP(dim)
        if code in ("float16", "int8"):
            kind = faiss.ScalarQuantizer.QT_fp16 if code == "float16" else faiss.ScalarQuantizer.QT_8bit
            return faiss.IndexScalarQuantizer(dim, kind, faiss.METRIC_L2)
        rabitq, found = RABITQ_CODE_PATTERN.fullmatch(code), PQ_CODE_PATTERN.fullmatch(code)
        if rabitq:
            self._transform = _rotate_at_random(faiss, dim, seed)
            self._coded_index = faiss.IndexRaBitQFastScan(
                dim, faiss.METRIC_L2, RABITQ_PASSAGES_PER_BLOCK, int(rabitq[1])
            )
            self._coded_index.qb = RABITQ_QUERY_BITS
        elif found and dim % int(found[2]) == 0:
            bits = min(8, len(vectors).bit_length() - 1)  # no more centroids than vectors
            self._prepare_product_quantizer(faiss, vectors, int(found[2]), bits, bool(found[1]))
        else:
            known = f"float32, float16, int8, rabitqB or [o]pqM with M a divisor of {dim}"
            raise ValueError(f"code: must be {known}, got {code!r}")
        return faiss.IndexPreTransform(self._transform, self._coded_index)

    def _prepare_product_quantizer(self, faiss: Any, vectors: np.ndarray, parts: int, bits: int, fitted: bool) -> None:
        """Make the transform of coordinates and the quantiser, both untrained."""
        dim = vectors.shape[1]
        width = min(DIRECTIONS_PER_BYTE * parts, dim)
        if width >= len(vectors):
            width = dim
        if fitted:
            self._transform = faiss.OPQMatrix(dim, parts, width)
            self._transform.niter = OPQ_ITERATIONS
            fitting = faiss.ProductQuantizer(width, parts, bits)  # of the rotation; the index trains its own
            _limit_kmeans(fitting, self._seed)
            self._transform.pq = self._fitting = fitting
        elif width < dim:
            self._transform = faiss.PCAMatrix(dim, width, 0, True)
        else:
            self._transform = _rotate_at_random(faiss, dim, self._seed)
        self._coded_index = faiss.IndexPQ(width, parts, bits)
        _limit_kmeans(self._coded_index.pq, self._seed)


def _rotate_at_random(faiss: Any, dim: int, seed: int) -> Any:
    rotation = faiss.RandomRotationMatrix(dim, dim)
    rotation.init(seed)
    return rotation


def _limit_kmeans(quantizer: Any, seed: int) -> None:
    means = quantizer.cp
    means.niter, means.min_points_per_centroid, means.seed = QUANTIZER_KMEANS_ITERATIONS, 1, seed

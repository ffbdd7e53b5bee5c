"""Codes of vectors of length one: float32, float16, int8 or a product quantiser.

    float32, float16    4 and 2 bytes per number
    int8                1 byte per number: 256 even steps from the least to the greatest value of each dimension
    pqM                 M bytes per vector: its 4 M main directions, rotated at random to balance the parts; in each of
                        M parts the nearest of 256 centroids (Jégou 2011)

A vector with code c is scored by its distance from the query q, 1 - |q - c|**2 / 2, which is the cosine where the code
loses nothing. The inner product with c errs more: it counts the part of c's error along the direction that all vectors
share. For vectors as close together as a tree's leaves, that part outweighs their differences.
"""

import re
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Float

from retreever.baselines.baseline import FLOAT32_CODE, Ranking
from retreever.evaluation.ranking import top_k
from retreever.system.extras import import_extra

CODE_REVISION = 2  # of these codes; cached figures of another revision are not comparable
PQ_CODE_PATTERN = re.compile(r"pq(\d+)")
DIRECTIONS_PER_BYTE = 4  # main directions: with more, each gets too few bits; with fewer, more is lost than gained
QUANTIZER_TRAINING_VECTORS = 8_192  # 32 per centroid
QUANTIZER_KMEANS_ITERATIONS = 6
MIN_QUERIES_TO_DECODE = 32  # from so many queries on, decoding all codes once is faster


class VectorCodes:
    """Vectors in a code.

    Args:
        code: `float32`, `float16`, `int8` or `pqM`, where M divides the width of the vectors.
        seed: of the sample and the rotation that a product quantiser is trained with.
    """

    def __init__(self, vectors: Float[np.ndarray, "n dim"], code: str = FLOAT32_CODE, seed: int = 0):
        vectors = np.ascontiguousarray(vectors, np.float32)
        self._is_float32 = code == FLOAT32_CODE
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

    def search(self, queries: Float[np.ndarray, "queries dim"], k: int) -> Ranking:
        """Find rows and scores of the best k, equal scores by row.

        Many queries are multiplied with the decoded vectors, which gives the sums that faiss forms one by one.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        if len(queries) >= MIN_QUERIES_TO_DECODE or (self._is_float32 and find_spec("faiss") is None):
            return self._search_all(queries, k)
        k = min(k, self._index.ntotal)
        found, rows = self._index.search(queries, k)
        scores = found if self._is_float32 else 1 - found / 2
        order = np.lexsort((rows, -scores))
        return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)

    def _search_all(self, queries: np.ndarray, k: int) -> Ranking:
        if self._is_float32:
            return top_k(queries, self.decode(), k, "inner")
        coded = self._coded_index.reconstruct_n(0, self._coded_index.ntotal)
        if self._transform is not None:
            queries = self._transform.apply(queries)
        half = np.square(coded).sum(1, keepdims=True) / 2
        ones = np.ones((len(queries), 1), np.float32)
        rows, scores = top_k(np.hstack([queries, ones]), np.hstack([coded, -half]), k, "inner")
        return rows, 1 + scores - np.square(queries).sum(1, keepdims=True) / 2

    def _make_index(self, vectors: np.ndarray, code: str, seed: int) -> Any:
        faiss = import_extra("faiss", "baselines")
        dim = vectors.shape[1]
        if code == FLOAT32_CODE:
            return faiss.IndexFlatIP(dim)
        if code in ("float16", "int8"):
            kind = faiss.ScalarQuantizer.QT_fp16 if code == "float16" else faiss.ScalarQuantizer.QT_8bit
            return faiss.IndexScalarQuantizer(dim, kind, faiss.METRIC_L2)
        found = PQ_CODE_PATTERN.fullmatch(code)
        if not found or dim % int(found[1]):
            raise ValueError(f"code: must be float32, float16, int8 or pqM with M a divisor of {dim}, got {code!r}")
        parts, bits = int(found[1]), min(8, len(vectors).bit_length() - 1)  # no more centroids than vectors
        width = min(DIRECTIONS_PER_BYTE * parts, dim)
        if width < dim and width < len(vectors):
            self._transform = faiss.PCAMatrix(dim, width, 0, True)
        else:
            width, self._transform = dim, faiss.RandomRotationMatrix(dim, dim)
            self._transform.init(seed)
        self._coded_index = faiss.IndexPQ(width, parts, bits)
        means = self._coded_index.pq.cp
        means.niter, means.min_points_per_centroid, means.seed = QUANTIZER_KMEANS_ITERATIONS, 1, seed
        return faiss.IndexPreTransform(self._transform, self._coded_index)

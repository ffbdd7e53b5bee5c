"""How vectors of length one are held: as they are, in halves, in bytes, or by a product quantiser; all by faiss.

    float32, float16    4 and 2 bytes a number
    int8                a byte a number: 256 even steps between the least and the greatest value of each dimension
    pqM                 M bytes a vector: of its 4 M main directions, rotated at random, which evens the parts, the
                        nearest of 256 centroids in each of M parts (Jégou 2011)

What is held in a code is ranked by its distance from the query, 1 - |q - c|**2 / 2, which is the cosine where nothing
is lost. The inner product with c errs more: of the error in c it counts the share along what all vectors have in
common, and where vectors are as close together as a tree's leaves that share outweighs their differences.
"""

import re
from typing import Any

import numpy as np
from jaxtyping import Float

from retreever.baselines.baseline import PLAIN, Ranking
from retreever.evaluation.ranking import top_k

REVISION = 2  # of what becomes of a vector in a code: figures of another are not comparable
QUANTISER = re.compile(r"pq(\d+)")
DIRECTIONS = 4  # main directions a byte: more of them get too few bits each, fewer lose more than they gain
SAMPLE = 8_192  # vectors that a product quantiser is trained on: 32 a centroid
ROUNDS = 6  # of its k-means
MANY = 32  # queries from which on decoding all codes once pays


class Held:
    """Vectors in a code.

    Args:
        code: `float32`, `float16`, `int8` or `pqM`, where M divides the width of the vectors.
        seed: draws what a product quantiser is trained on.
    """

    def __init__(self, vectors: Float[np.ndarray, "n dim"], code: str = PLAIN, seed: int = 0):
        vectors = np.ascontiguousarray(vectors, np.float32)
        self._plain = code == PLAIN
        self._change: Any = None  # of coordinates, before coding
        self._within: Any = None
        self._index = self._made(vectors, code, seed)
        self._within = self._within or self._index
        if not self._index.is_trained:
            rows = np.random.default_rng(seed).permutation(len(vectors))[:SAMPLE]
            self._index.train(vectors[np.sort(rows)])
        self._index.add(vectors)

    @property
    def bytes_per_vector(self) -> int:
        """Of the code; tables shared by all vectors are not counted."""
        return int(self._index.sa_code_size())

    def decoded(self) -> Float[np.ndarray, "n dim"]:
        """What the codes stand for, float32."""
        return np.asarray(self._index.reconstruct_n(0, self._index.ntotal))

    def search(self, queries: Float[np.ndarray, "queries dim"], k: int) -> Ranking:
        """Rows and scores of the best k, equal ones by row.

        Many queries are multiplied with the decoded vectors, which gives the sums that faiss would form one by one.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        if len(queries) >= MANY:
            return self._among_all(queries, k)
        k = min(k, self._index.ntotal)
        found, rows = self._index.search(queries, k)
        scores = found if self._plain else 1 - found / 2
        order = np.lexsort((rows, -scores))
        return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)

    def _among_all(self, queries: np.ndarray, k: int) -> Ranking:
        if self._plain:
            return top_k(queries, self.decoded(), k, "inner")
        coded = self._within.reconstruct_n(0, self._within.ntotal)
        if self._change is not None:
            queries = self._change.apply(queries)
        half = np.square(coded).sum(1, keepdims=True) / 2
        ones = np.ones((len(queries), 1), np.float32)
        rows, scores = top_k(np.hstack([queries, ones]), np.hstack([coded, -half]), k, "inner")
        return rows, 1 + scores - np.square(queries).sum(1, keepdims=True) / 2

    def _made(self, vectors: np.ndarray, code: str, seed: int) -> Any:
        import faiss

        dim = vectors.shape[1]
        if code == PLAIN:
            return faiss.IndexFlatIP(dim)
        if code in ("float16", "int8"):
            kind = faiss.ScalarQuantizer.QT_fp16 if code == "float16" else faiss.ScalarQuantizer.QT_8bit
            return faiss.IndexScalarQuantizer(dim, kind, faiss.METRIC_L2)
        found = QUANTISER.fullmatch(code)
        if not found or dim % int(found[1]):
            raise ValueError(f"code: must be float32, float16, int8 or pqM with M a divisor of {dim}, got {code!r}")
        parts, bits = int(found[1]), min(8, len(vectors).bit_length() - 1)  # no more centroids than vectors
        kept = min(DIRECTIONS * parts, dim)
        if kept < dim and kept < len(vectors):
            self._change = faiss.PCAMatrix(dim, kept, 0, True)
        else:
            kept, self._change = dim, faiss.RandomRotationMatrix(dim, dim)
            self._change.init(seed)
        self._within = faiss.IndexPQ(kept, parts, bits)
        means = self._within.pq.cp
        means.niter, means.min_points_per_centroid, means.seed = ROUNDS, 1, seed
        return faiss.IndexPreTransform(self._change, self._within)

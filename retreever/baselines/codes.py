"""How vectors are held for inner products: as they are, in halves, in bytes, or by a product quantiser; all by faiss.

    float32, float16    4 and 2 bytes a number
    int8                a byte a number: 256 even steps between the least and the greatest value of each dimension
    pqM                 M bytes a vector: after a random rotation, which evens the parts, the nearest of 256 centroids
                        in each of M parts (Jégou 2011)

Nothing is asked back from the vectors: a score is the inner product of the query with what the code stands for.
"""

import re
from typing import Any

import numpy as np
from jaxtyping import Float

from retreever.baselines.interface import PLAIN, Ranking
from retreever.evaluation.ranking import top_k

QUANTISER = re.compile(r"pq(\d+)")
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
        self._kept: list[Any] = []  # what faiss only borrows
        self._index = self._made(vectors, code, seed)
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
        """Rows and inner products of the best k, equal ones by row.

        Many queries are multiplied with the decoded vectors, which gives the sums that faiss would form one by one.
        """
        if len(queries) >= MANY:
            return top_k(queries, self.decoded(), k, "inner")
        k = min(k, self._index.ntotal)
        scores, rows = self._index.search(np.ascontiguousarray(queries, np.float32), k)
        order = np.lexsort((rows, -scores))
        return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)

    def _made(self, vectors: np.ndarray, code: str, seed: int) -> Any:
        import faiss

        dim, metric = vectors.shape[1], faiss.METRIC_INNER_PRODUCT
        if code == PLAIN:
            return faiss.IndexFlatIP(dim)
        if code in ("float16", "int8"):
            kind = faiss.ScalarQuantizer.QT_fp16 if code == "float16" else faiss.ScalarQuantizer.QT_8bit
            return faiss.IndexScalarQuantizer(dim, kind, metric)
        found = QUANTISER.fullmatch(code)
        if not found or dim % int(found[1]):
            raise ValueError(f"code: must be float32, float16, int8 or pqM with M a divisor of {dim}, got {code!r}")
        parts, bits = int(found[1]), min(8, len(vectors).bit_length() - 1)  # no more centroids than vectors
        rotation, quantiser = faiss.RandomRotationMatrix(dim, dim), faiss.IndexPQ(dim, parts, bits, metric)
        rotation.init(seed)
        quantiser.pq.cp.niter, quantiser.pq.cp.min_points_per_centroid, quantiser.pq.cp.seed = ROUNDS, 1, seed
        self._kept = [rotation, quantiser]
        return faiss.IndexPreTransform(rotation, quantiser)

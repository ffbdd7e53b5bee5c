"""Binary codes of the frozen encodings with re-scoring: Hamming distance finds candidates, int8 vectors rank them.

A bit says whether a dimension lies above its mean over the passages. The forms differ in the number of candidates,
whatever k is, so that quality and latency are those of the same search.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from retreever.baselines.baseline import MISSING_ROW, Form, Ranking
from retreever.baselines.dense.frozen_encoder import FrozenEncoder
from retreever.baselines.dense.vector_codes import VectorCodes
from retreever.encoding.encoding_store import EncodedDataset
from retreever.system.extras import import_extra
from retreever.system.progress import Track, track_silently

RESCORED_CANDIDATES = (40, 200, 1000)
BITS_PER_BYTE = 8


class BinaryRescored(FrozenEncoder):
    """One bit and one byte per dimension of every passage; a query has its floats for re-scoring."""

    name = "binary"
    forms = tuple(Form(code=f"rescored {candidates}") for candidates in RESCORED_CANDIDATES)

    def index(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Index the passages of `data`; `search` then takes rows of its queries."""
        super().index(data, track)
        faiss = import_extra("faiss", "baselines")
        vectors = self._convert_to_form(self._passages, Form())
        self._mean = vectors.mean(axis=0)
        self._rescoring = VectorCodes(vectors, "int8")
        bits = self._binarize(vectors)
        self._hamming: Any = faiss.IndexBinaryFlat(BITS_PER_BYTE * bits.shape[1])
        self._hamming.add(bits)

    def search(self, query_rows: Int[np.ndarray, " queries"], k: int, form: Form) -> Ranking:
        """Find passage rows and scores of the best k candidates, equal scores by row."""
        queries = self._convert_to_form(self._query_vectors(query_rows), Form())
        wanted = min(int(form.code.split()[1]), len(self._passages))
        candidates = np.sort(self._hamming.search(self._binarize(queries), wanted)[1], axis=1)
        rows = np.full((len(queries), k), MISSING_ROW, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for i, (query, own) in enumerate(zip(queries, candidates, strict=True)):
            found = 1 - np.square(self._rescoring.decode_rows(own) - query).sum(axis=1) / 2
            order = np.argsort(-found, kind="stable")[:k]
            rows[i, : len(order)], scores[i, : len(order)] = own[order], found[order]
        return rows, scores

    def bytes_per_document(self, form: Form) -> float:
        """Bytes of the bits and of the vector in int8."""
        return self._hamming.d / BITS_PER_BYTE + self._rescoring.bytes_per_vector

    def _binarize(self, vectors: Float[np.ndarray, "n dim"]) -> UInt8[np.ndarray, "n bytes"]:
        return np.packbits(vectors > self._mean, axis=1)

"""Rivals that rank by the cosine of vectors: they differ in which vectors, and share everything else."""

from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Float, Int

from retreever.baselines.baseline import Form, Ranking, normalized
from retreever.baselines.dense.vector_codes import Held
from retreever.encoding.encoding_store import EncodedDataset, Encodings
from retreever.system.progress import Track, silent


class Dense(ABC):
    """Exhaustive cosine search; a subclass says what `_vectors` of texts are."""

    seed = 0

    def index(self, data: EncodedDataset, track: Track = silent) -> None:
        """Hold the passages of `data`, to be asked by its queries."""
        self._hold(self._vectors(data.passages, np.arange(len(data.passages))), data.queries)

    def _hold(self, passages: Float[np.ndarray, "passages dim"], queries: Encodings) -> None:
        self._passages, self._queries = passages, queries
        self._held: dict[Form, Held] = {}
        self._rows = np.empty(0, np.int64)

    def search(self, query_rows: Int[np.ndarray, " queries"], k: int, form: Form) -> Ranking:
        """Passage rows and cosines of the best k, equal cosines by row."""
        return self._holding(form).search(self._sized(self._asked(query_rows), form), k)

    def bytes_per_document(self, form: Form) -> float:
        """Of the code of one vector."""
        return self._holding(form).bytes_per_vector

    def _asked(self, rows: Int[np.ndarray, " queries"]) -> Float[np.ndarray, "queries dim"]:
        """Vectors of queries. Those of many are kept, as every form is judged by the same; a single one is timed."""
        if len(rows) == 1:
            return self._vectors(self._queries, rows)
        if not np.array_equal(self._rows, rows):
            self._rows, self._asked_before = rows, self._vectors(self._queries, rows)
        return self._asked_before

    @abstractmethod
    def _vectors(self, encodings: Encodings, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n dim"]:
        """Vectors of texts at the largest size."""

    def _sized(self, vectors: Float[np.ndarray, "n dim"], form: Form) -> Float[np.ndarray, "n dims"]:
        """Those of a form, of length one: the first dimensions."""
        return normalized(vectors[:, : form.dims])

    def _holding(self, form: Form) -> Held:
        """The passages in a form; the last one asked for is kept."""
        if form not in self._held:
            self._held = {form: Held(self._sized(self._passages, form), form.code, self.seed)}
        return self._held[form]

"""Base of systems that rank by the cosine of vectors; they differ only in the vectors."""

from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Float, Int

from retreever.baselines.baseline import Form, Ranking, l2_normalize, measure_deviation
from retreever.baselines.dense.vector_codes import VectorCodes
from retreever.encoding.encoding_store import EncodedDataset
from retreever.encoding.text_encodings import Encodings
from retreever.system.progress import Track, track_silently

SPREAD_SAMPLE = 256  # passages whose similarities tell the spread


class DenseRanker(ABC):
    """Exhaustive cosine search; a subclass defines the vectors of texts (`_compute_vectors`)."""

    seed = 0

    def index(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Index the passages of `data`; `search` then takes rows of its queries."""
        self._index_vectors(self._compute_vectors(data.passages, np.arange(len(data.passages))), data.queries)

    def _index_vectors(self, passages: Float[np.ndarray, "passages dim"], queries: Encodings) -> None:
        self._passages, self._queries = passages, queries
        self._codes_by_form: dict[Form, VectorCodes] = {}
        self._last_query_rows = np.empty(0, np.int64)

    def search(self, query_rows: Int[np.ndarray, " queries"], k: int, form: Form) -> Ranking:
        """Find passage rows and cosines of the best k, equal cosines by row."""
        return self._passage_codes(form).search(self._convert_to_form(self._query_vectors(query_rows), form), k)

    def score_all(self, query_rows: Int[np.ndarray, " queries"], form: Form) -> Float[np.ndarray, "queries passages"]:
        """Score every passage for every query; `search` ranks by the same scores."""
        return self._passage_codes(form).score_all(self._convert_to_form(self._query_vectors(query_rows), form))

    def measure_scale(self, form: Form) -> float:
        """Unit of the scores in this corpus: the standard deviation of a passage's similarities to the others."""
        rows = np.linspace(0, len(self._passages) - 1, min(len(self._passages), SPREAD_SAMPLE)).astype(np.int64)
        sample = self._convert_to_form(self._passages[rows], form)
        return measure_deviation(sample @ sample.T)

    def bytes_per_document(self, form: Form) -> float:
        """Bytes of the code of one vector."""
        return self._passage_codes(form).bytes_per_vector

    def _query_vectors(self, rows: Int[np.ndarray, " queries"]) -> Float[np.ndarray, "queries dim"]:
        """Vectors of queries. A batch is cached, as all forms are judged on it; a single query is not: it is timed."""
        if len(rows) == 1:
            return self._compute_vectors(self._queries, rows)
        if not np.array_equal(self._last_query_rows, rows):
            self._last_query_rows, self._last_query_vectors = rows, self._compute_vectors(self._queries, rows)
        return self._last_query_vectors

    @abstractmethod
    def _compute_vectors(self, encodings: Encodings, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n dim"]:
        """Vectors of texts at the largest size."""

    def _convert_to_form(self, vectors: Float[np.ndarray, "n dim"], form: Form) -> Float[np.ndarray, "n dims"]:
        """Reduce vectors to a form: the first dimensions, scaled to length one."""
        return l2_normalize(vectors[:, : form.dims])

    def _passage_codes(self, form: Form) -> VectorCodes:
        """The passages in a form; the last form is cached."""
        if form not in self._codes_by_form:
            self._codes_by_form = {form: VectorCodes(self._convert_to_form(self._passages, form), form.code, self.seed)}
        return self._codes_by_form[form]

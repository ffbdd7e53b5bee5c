"""What faiss's approximate indexes share: vectors of the frozen encoder, and a breadth of search as the form."""

from abc import abstractmethod
from typing import Any

import numpy as np
from jaxtyping import Int

from retreever.baselines.baseline import NOTHING, Form, Ranking
from retreever.baselines.dense.frozen_encoder import Frozen
from retreever.encoding.encoding_store import EncodedDataset
from retreever.system.progress import Track, silent


class Approximate(Frozen):
    """Cosine search that looks at some passages only; forms differ in how many."""

    def index(self, data: EncodedDataset, track: Track = silent) -> None:
        """Build the index over the passages of `data`."""
        super().index(data, track)
        vectors = self._sized(self._passages, Form())
        (self._index,) = track([self._built(vectors)], f"building {self.name}", total=1)

    def search(self, query_rows: Int[np.ndarray, " queries"], k: int, form: Form) -> Ranking:
        """Passage rows and cosines of the best k that were looked at."""
        self._set(int(form.code.split()[1]))
        scores, rows = self._index.search(self._sized(self._vectors(self._queries, query_rows), Form()), k)
        return np.where(rows < 0, NOTHING, rows), np.where(rows < 0, -np.inf, scores)

    def bytes_per_document(self, form: Form) -> float:
        """The whole index, over all documents."""
        import faiss

        return faiss.serialize_index(self._index).nbytes / len(self._passages)

    @abstractmethod
    def _built(self, vectors: np.ndarray) -> Any: ...

    @abstractmethod
    def _set(self, breadth: int) -> None: ...

"""Base of faiss's approximate indexes: vectors of the frozen encoder, a search breadth as form."""

from abc import abstractmethod
from typing import Any

import numpy as np
from jaxtyping import Int

from retreever.baselines.baseline import MISSING_ROW, Form, Ranking
from retreever.baselines.dense.frozen_encoder import FrozenEncoder
from retreever.encoding.encoding_store import EncodedDataset
from retreever.system.extras import import_extra
from retreever.system.progress import Track, track_silently


class ApproximateIndex(FrozenEncoder):
    """Cosine search that scores only some passages; forms differ in how many."""

    def index(self, data: EncodedDataset, track: Track = track_silently) -> None:
        """Build the index over the passages of `data`."""
        super().index(data, track)
        vectors = self._convert_to_form(self._passages, Form())
        (self._index,) = track([self._build_index(vectors)], f"building {self.name}", total=1)

    def search(self, query_rows: Int[np.ndarray, " queries"], k: int, form: Form) -> Ranking:
        """Find passage rows and cosines of the best k among the scored passages."""
        self._set_breadth(int(form.code.split()[1]))
        scores, rows = self._index.search(
            self._convert_to_form(self._compute_vectors(self._queries, query_rows), Form()), k
        )
        return np.where(rows < 0, MISSING_ROW, rows), np.where(rows < 0, -np.inf, scores)

    def bytes_per_document(self, form: Form) -> float:
        """Bytes of the whole index, per passage."""
        faiss = import_extra("faiss", "baselines")
        return faiss.serialize_index(self._index).nbytes / len(self._passages)

    @abstractmethod
    def _build_index(self, vectors: np.ndarray) -> Any: ...

    @abstractmethod
    def _set_breadth(self, breadth: int) -> None: ...

"""faiss HNSW: passages in a graph of neighbours, a query walks towards its own."""

from typing import Any

import numpy as np

from retreever.baselines.baseline import Form
from retreever.baselines.dense.approximate_index import Approximate

LINKS = 32
BREADTH = 80  # of the search while building


class HNSW(Approximate):
    """Hierarchical navigable small world (Malkov 2018) over vectors in float32."""

    name = "hnsw"
    forms = tuple(Form(code=f"ef {breadth}") for breadth in (16, 64, 256))

    def _built(self, vectors: np.ndarray) -> Any:
        import faiss

        index = faiss.IndexHNSWFlat(vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BREADTH
        index.add(vectors)
        return index

    def _set(self, breadth: int) -> None:
        self._index.hnsw.efSearch = breadth

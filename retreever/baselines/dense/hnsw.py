"""faiss HNSW: a graph of neighbouring passages, searched greedily from an entry point."""

from typing import Any

import numpy as np

from retreever.baselines.baseline import Form
from retreever.baselines.dense.approximate_index import ApproximateIndex
from retreever.system.extras import import_extra

GRAPH_LINKS = 32
EF_CONSTRUCTION = 80  # breadth of the search while the graph is built


class HNSW(ApproximateIndex):
    """Hierarchical navigable small world (Malkov 2018) over vectors in float32."""

    name = "hnsw"
    forms = tuple(Form(code=f"ef {breadth}") for breadth in (16, 64, 256))

    def _build_index(self, vectors: np.ndarray) -> Any:
        faiss = import_extra("faiss", "baselines")
        index = faiss.IndexHNSWFlat(vectors.shape[1], GRAPH_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        index.add(vectors)
        return index

    def _set_breadth(self, breadth: int) -> None:
        self._index.hnsw.efSearch = breadth

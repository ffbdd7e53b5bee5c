"""faiss IVF: passages in the cells of their nearest centroids; a query scans its nearest cells."""

from typing import Any

import numpy as np

from retreever.baselines.baseline import Form
from retreever.baselines.dense.approximate_index import ApproximateIndex
from retreever.system.extras import import_extra


class IVF(ApproximateIndex):
    """Inverted file over vectors in float32, with four times the square root of the number of passages as cells."""

    name = "ivf"
    forms = tuple(Form(code=f"nprobe {probes}") for probes in (1, 4, 16, 64))

    def _build_index(self, vectors: np.ndarray) -> Any:
        faiss = import_extra("faiss", "baselines")
        cells = max(1, min(round(4 * len(vectors) ** 0.5), len(vectors) // 39))  # faiss asks for 39 vectors a cell
        coarse = faiss.IndexFlatIP(vectors.shape[1])
        index = faiss.IndexIVFFlat(coarse, vectors.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
        return index

    def _set_breadth(self, breadth: int) -> None:
        self._index.nprobe = breadth

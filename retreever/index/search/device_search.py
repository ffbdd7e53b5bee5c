"""The exact k best passages of many queries at once, by matrix products on a torch device (ours).

A sum of n float32 numbers has a relative error of at most about n * 2**-24, in whatever order it is computed. Passages
within twice that of a query's k-th best product are scored again by the kernels of certified search, so that both
searches give the same answer to the last bit. It pays where a GPU answers hundreds of queries together. Codes are not
used here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from retreever.index.index_layout import Layout
from retreever.index.kernels.top_k_kernels import update_heap
from retreever.index.search.certified_search import Evidence, SearchProgress, score_segment_rows
from retreever.index.segment import Segment, SegmentView
from retreever.system.threads import map_in_threads

DEVICE_CHUNK_ELEMENTS = 2**25  # similarities, and numbers of passages, held at once: 128 MiB each
FLOAT32_ROUNDING = 2.0**-24  # relative rounding error of float32
RESCORING_GROUP_QUERIES = 16  # queries whose candidates a thread scores at a time


class DeviceSearch:
    """Vectors of an index on a device, copied when a segment is first searched and freed when the index drops it.

    Raises:
        RuntimeError: torch has no such device, or its memory cannot hold the vectors.
    """

    def __init__(self, device: str):
        self.device = torch.device(device)
        self._device_vectors: dict[int, tuple[Segment, Tensor]] = {}

    def search(
        self, vectors: np.ndarray, level: int, k: int, layout: Layout, views: Sequence[SegmentView], threads: int
    ) -> list[tuple[np.ndarray, np.ndarray, Evidence]]:
        """Numbers, scores and evidence of every query, the best passage first.

        Args:
            vectors: the queries in stored form, float32 (queries, nodes).
            k: at least 1, at most the number of living passages.
            threads: for scoring candidates exactly, on the CPU.
        """
        held = {id(view.segment): self._copy_to_device(view.segment, level) for view in views}
        self._device_vectors = held  # another thread may replace it; this one goes on with its own
        stored = [held[id(view.segment)][1] for view in views]
        candidates, thresholds = self._find_candidates(
            torch.from_numpy(vectors).to(self.device), level, k, layout, views, stored
        )
        starts = np.searchsorted(candidates.queries, np.arange(len(vectors) + 1))
        scanned = sum(int(view.rows_alive.sum()) for view in views)

        def rescore_group(queries: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, Evidence]]:
            return [rescore(int(query)) for query in queries]

        def rescore(query: int) -> tuple[np.ndarray, np.ndarray, Evidence]:
            own, mine = SearchProgress(1, k), slice(starts[query], starts[query + 1])
            for number in np.unique(candidates.views[mine]):
                rows = candidates.rows[mine][candidates.views[mine] == number]
                scores = score_segment_rows(vectors[query], level, views[number].segment, layout, rows)
                update_heap(scores, own.best[0])
                own.candidates[0].append((int(number), rows, scores))
            seen = starts[query + 1] - starts[query]
            evidence = Evidence(level, scanned, seen, seen, seen, float(thresholds[query]), float(own.best[0, 0]))
            return (*own.rank(0, views), evidence)

        groups = np.array_split(np.arange(len(vectors)), -(-len(vectors) // RESCORING_GROUP_QUERIES))
        return [one for group in map_in_threads(rescore_group, groups, threads) for one in group]

    def _copy_to_device(self, segment: Segment, level: int) -> tuple[Segment, Tensor]:
        stored = segment.get_vectors(level)
        held = self._device_vectors.get(id(segment))
        if held and held[1].shape == stored.shape:
            return held
        return segment, torch.from_numpy(stored).to(self.device)

    def _find_candidates(
        self,
        queries: Tensor,
        level: int,
        k: int,
        layout: Layout,
        views: Sequence[SegmentView],
        stored: Sequence[Tensor],
    ) -> tuple["DeviceCandidates", np.ndarray]:
        """Passages that may be among the k best, and for every query an upper bound of all others."""
        slack = 4 * 2**layout.depth * FLOAT32_ROUNDING  # twice the sum of the product's error and the kernel's
        top = queries.new_full((len(queries), k), -torch.inf)
        found: list[tuple[Tensor, ...]] = []
        step = max(1, DEVICE_CHUNK_ELEMENTS // max(len(queries), 2**layout.depth))
        with torch.inference_mode(), _use_full_precision():
            for number, (view, held) in enumerate(zip(views, stored, strict=True)):
                alive = torch.from_numpy(view.rows_alive).to(self.device)
                for start in range(0, len(held), step):
                    scores = _compute_similarities(queries, held[start : start + step], level, layout)
                    scores.masked_fill_(alive[start : start + step] == 0, -torch.inf)
                    best = scores.topk(min(k, scores.shape[1]), 1).values
                    top = torch.cat([top, best], 1).topk(k, 1).values
                    query, row = ((scores >= top[:, -1:] - slack) & scores.isfinite()).nonzero(as_tuple=True)
                    found.append((query, torch.full_like(row, number), row + start, scores[query, row]))
            query, source, row, score = (torch.cat(parts) for parts in zip(*found, strict=True))
            kept = score >= top[query, -1] - slack
            order = query[kept].argsort(stable=True)
            near = DeviceCandidates(*(part[kept][order].cpu().numpy() for part in (query, source, row)))
            return near, (top[:, -1] - slack / 2).cpu().numpy()


class DeviceCandidates(NamedTuple):
    """Passages that may be among a query's k best: query, view and row of each, int64, sorted by query."""

    queries: np.ndarray
    views: np.ndarray
    rows: np.ndarray


def _compute_similarities(queries: Tensor, vectors: Tensor, level: int, layout: Layout) -> Tensor:
    """Similarities (queries, passages), with the error of a float32 sum of 2**depth numbers at most."""
    passages = vectors.float()
    inner = layout.similarity == "bhattacharyya"
    if passages.shape[1] != 2**level:
        parts = passages.unflatten(1, (2**level, -1))
        passages = parts.square().sum(2).sqrt() if inner else parts.sum(2)
    if inner:
        return queries @ passages.T
    sums = queries.sum(1, keepdim=True) + passages.sum(1)  # each is nearly 1 where vectors are float16
    return (sums - torch.cdist(queries, passages, p=1.0)) / 2 - 1


@contextmanager
def _use_full_precision() -> Iterator[None]:
    """Have torch multiply in float32, even where the program allows a shorter format."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)

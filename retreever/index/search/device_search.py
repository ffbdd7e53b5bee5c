"""The exact best passages of many queries at once: all similarities by matrix products on a device of torch (ours).

A sum of n float32 numbers is off by at most about n * 2**-24 of it, however it is ordered. What comes within twice that
of a query's k-th best product is compared again by the kernels of certified search, so that both ways give the same
answer to the last bit. It pays where a GPU answers hundreds of queries together.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from retreever.index.index_layout import Layout
from retreever.index.kernels.top_k_kernels import keep_best
from retreever.index.search.certified_search import Evidence, Progress, some_scores
from retreever.index.segment import Segment, View
from retreever.system.threads import side_by_side

AT_ONCE = 2**25  # similarities, and numbers of passages, held at once: 128 MiB each
EPSILON = 2.0**-24  # by which float32 rounds
TOGETHER = 16  # queries whose candidates a thread compares in full at a time


class Products:
    """Vectors of an index on a device, copied when a segment is first searched there and let go when it is gone.

    Raises:
        RuntimeError: torch has no such device, or no room there for the vectors.
    """

    def __init__(self, device: str):
        self.device = torch.device(device)
        self._held: dict[int, tuple[Segment, Tensor]] = {}

    def answers(
        self, vectors: np.ndarray, level: int, k: int, layout: Layout, views: Sequence[View], threads: int
    ) -> list[tuple[np.ndarray, np.ndarray, Evidence]]:
        """Numbers, scores and evidence of every query, the best passage first.

        Args:
            vectors: in stored form, float32 (queries, nodes).
            k: at most the number of passages that count.
            threads: compare candidates in full.
        """
        held = {id(view.segment): self._on_device(view.segment, level) for view in views}
        self._held = held  # another thread may put its own there while this one goes on with these
        stored = [held[id(view.segment)][1] for view in views]
        near, floors = self._near(torch.from_numpy(vectors).to(self.device), level, k, layout, views, stored)
        starts = np.searchsorted(near.queries, np.arange(len(vectors) + 1))
        scanned = sum(int(view.rows_alive.sum()) for view in views)

        def answers(queries: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, Evidence]]:
            return [answer(int(query)) for query in queries]

        def answer(query: int) -> tuple[np.ndarray, np.ndarray, Evidence]:
            own, mine = Progress(1, k), slice(starts[query], starts[query + 1])
            for number in np.unique(near.views[mine]):
                rows = near.rows[mine][near.views[mine] == number]
                scores = some_scores(vectors[query], level, views[number].segment, layout, rows)
                keep_best(scores, own.best[0])
                own.kept[0].append((int(number), rows, scores))
            seen = starts[query + 1] - starts[query]
            evidence = Evidence(level, scanned, seen, seen, seen, float(floors[query]), float(own.best[0, 0]))
            return (*own.ranked(0, views), evidence)

        groups = np.array_split(np.arange(len(vectors)), -(-len(vectors) // TOGETHER))
        return [one for group in side_by_side(answers, groups, threads) for one in group]

    def _on_device(self, segment: Segment, level: int) -> tuple[Segment, Tensor]:
        stored = segment.at(level)
        held = self._held.get(id(segment))
        if held and held[1].shape == stored.shape:
            return held
        return segment, torch.from_numpy(stored).to(self.device)

    def _near(
        self, queries: Tensor, level: int, k: int, layout: Layout, views: Sequence[View], stored: Sequence[Tensor]
    ) -> tuple["Near", np.ndarray]:
        """What may be among the best, and for every query what the rest stays below."""
        slack = 4 * 2**layout.depth * EPSILON  # the product's error and the kernel's, twice
        top = queries.new_full((len(queries), k), -torch.inf)
        found: list[tuple[Tensor, ...]] = []
        step = max(1, AT_ONCE // max(len(queries), 2**layout.depth))
        with torch.inference_mode(), _whole_precision():
            for number, (view, held) in enumerate(zip(views, stored, strict=True)):
                alive = torch.from_numpy(view.rows_alive).to(self.device)
                for start in range(0, len(held), step):
                    scores = _similarities(queries, held[start : start + step], level, layout)
                    scores.masked_fill_(alive[start : start + step] == 0, -torch.inf)
                    best = scores.topk(min(k, scores.shape[1]), 1).values
                    top = torch.cat([top, best], 1).topk(k, 1).values
                    query, row = ((scores >= top[:, -1:] - slack) & scores.isfinite()).nonzero(as_tuple=True)
                    found.append((query, torch.full_like(row, number), row + start, scores[query, row]))
            query, source, row, score = (torch.cat(parts) for parts in zip(*found, strict=True))
            kept = score >= top[query, -1] - slack
            order = query[kept].argsort(stable=True)
            near = Near(*(part[kept][order].cpu().numpy() for part in (query, source, row)))
            return near, (top[:, -1] - slack / 2).cpu().numpy()


class Near(NamedTuple):
    """Passages that may be among a query's best, by query: which query, view and row."""

    queries: np.ndarray
    views: np.ndarray
    rows: np.ndarray


def _similarities(queries: Tensor, held: Tensor, level: int, layout: Layout) -> Tensor:
    """Similarities (queries, passages), off by no more than sums of 2**depth numbers in float32 are."""
    passages = held.float()
    inner = layout.similarity == "bhattacharyya"
    if passages.shape[1] != 2**level:
        parts = passages.unflatten(1, (2**level, -1))
        passages = parts.square().sum(2).sqrt() if inner else parts.sum(2)
    if inner:
        return queries @ passages.T
    sums = queries.sum(1, keepdim=True) + passages.sum(1)  # of stored halves not quite one each
    return (sums - torch.cdist(queries, passages, p=1.0)) / 2 - 1


@contextmanager
def _whole_precision() -> Iterator[None]:
    """Products of float32 numbers as such, whatever shorter format the program lets torch use."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)

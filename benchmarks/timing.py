"""How long searches take: single queries on one thread, batches on all; and what one thread reads from memory."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np
import torch
from threadpoolctl import threadpool_limits

PATIENCE = 8  # seconds of single queries


@dataclass(frozen=True)
class Timing:
    """Milliseconds a query, what was found against brute force over the same vectors, and what was looked at for it.

    Attributes:
        recall: NaN where no vectors are compared (BM25).
        left: share of the documents that the first bound leaves; 1 where there is none.
    """

    name: str
    documents: int
    p50_ms: float
    p99_ms: float
    qps_batch: float
    recall: float
    bytes_per_document: float
    build_s: float
    left: float = 1.0


def timed(
    name: str,
    search: Callable[[np.ndarray], np.ndarray],
    queries: np.ndarray,
    truth: np.ndarray | None,
    documents: int,
    size: float,
    build_s: float,
) -> Timing:
    """Single queries on one thread, then batches of 64 on all; recall of what came back against `truth`, if any.

    Slow rivals answer fewer: until they have had their time, and ten at least.
    """
    say(name)
    search(queries[:1])
    singles, found = [], []
    with threadpool_limits(1):
        faiss.omp_set_num_threads(1)
        for query in queries:
            start = time.perf_counter()
            found.append(search(query[None])[0])
            singles.append((time.perf_counter() - start) * 1e3)
            if sum(singles) > PATIENCE * 1e3 and len(singles) >= 10:
                break
    faiss.omp_set_num_threads(torch.get_num_threads())
    batch, batches = queries[np.arange(64) % len(queries)], []
    while sum(batches) < PATIENCE / 4 and len(batches) < 5:
        start = time.perf_counter()
        search(batch)
        batches.append(time.perf_counter() - start)
    qps = len(batch) / float(np.median(batches))
    recall = float("nan")
    if truth is not None:
        both = zip(found, truth[: len(found)].tolist(), strict=True)
        recall = float(np.mean([len(set(a) & set(b)) / len(b) for a, b in both]))
    p50, p99 = np.percentile(singles, [50, 99])
    return Timing(name, documents, float(p50), float(p99), qps, recall, size, build_s)


def say(step: str) -> None:
    """Tell on stderr what is being done."""
    print(f"{time.strftime('%H:%M:%S')} {step}", file=sys.stderr, flush=True)


def bandwidth() -> float:
    """Bytes a second that one thread reads, summing 256 MiB."""
    block = np.ones(2**25, np.float64)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        block.sum()
        times.append(time.perf_counter() - start)
    return block.nbytes / min(times)


def product_rate() -> float:
    """Multiplications and additions a second of a large product in float32 on all threads."""
    left, right = np.ones((2**14, 1024), np.float32), np.ones((1024, 256), np.float32)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - start)
    return 2 * left.size * right.shape[1] / min(times)


def backed(size: int) -> None:
    """Have so many bytes of memory once, and free them.

    A virtual machine takes up to two seconds for a GiB it never gave before: whoever builds first would pay for it.
    """
    np.ones(size, np.uint8)

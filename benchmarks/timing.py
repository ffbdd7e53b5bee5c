"""Timing of searches, single queries on one thread and batches on all, and of the machine's limits."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np
import torch
from threadpoolctl import threadpool_limits

SINGLE_QUERY_SECONDS = 8  # time limit of the single queries of one search


@dataclass(frozen=True)
class Timing:
    """Milliseconds per query, recall against brute force over the same vectors, and share of passages scored.

    Attributes:
        recall: in [0, 1]; NaN where no vectors are compared (BM25).
        surviving_share: share of the passages that survive the first bound; 1 where there is no bound.
    """

    name: str
    documents: int
    p50_ms: float
    p99_ms: float
    qps_batch: float
    recall: float
    bytes_per_document: float
    build_s: float
    surviving_share: float = 1.0


def time_search(
    name: str,
    search: Callable[[np.ndarray], np.ndarray],
    queries: np.ndarray,
    truth: np.ndarray | None,
    documents: int,
    size: float,
    build_s: float,
) -> Timing:
    """Time single queries on one thread, then batches of 64 on all; compute the recall against `truth`, if any.

    A slow search stops after `SINGLE_QUERY_SECONDS`, but answers at least ten queries.
    """
    log_step(name)
    search(queries[:1])
    singles, found = [], []
    with threadpool_limits(1):
        faiss.omp_set_num_threads(1)
        for query in queries:
            start = time.perf_counter()
            found.append(search(query[None])[0])
            singles.append((time.perf_counter() - start) * 1e3)
            if sum(singles) > SINGLE_QUERY_SECONDS * 1e3 and len(singles) >= 10:
                break
    faiss.omp_set_num_threads(torch.get_num_threads())
    batch, batches = queries[np.arange(64) % len(queries)], list[float]()
    while sum(batches) < SINGLE_QUERY_SECONDS / 4 and len(batches) < 5:
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


def log_step(step: str) -> None:
    """Print a step on stderr, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {step}", file=sys.stderr, flush=True)


def measure_bandwidth() -> float:
    """Bytes per second that one thread reads, summing 256 MiB."""
    block = np.ones(2**25, np.float64)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        block.sum()
        times.append(time.perf_counter() - start)
    return block.nbytes / min(times)


def measure_product_rate() -> float:
    """Floating-point operations per second of a large matrix product in float32 on all threads."""
    left, right = np.ones((2**14, 1024), np.float32), np.ones((1024, 256), np.float32)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - start)
    return 2 * left.size * right.shape[1] / min(times)


def touch_memory(size: int) -> None:
    """Allocate so many bytes and free them.

    A virtual machine takes up to two seconds to back a GiB for the first time; the first build would pay for that.
    """
    np.ones(size, np.uint8)

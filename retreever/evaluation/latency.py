"""Latency of single queries: one thread, one query at a time, after warm-up calls."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import numba
import numpy as np
import torch

QueryT = TypeVar("QueryT")
UNTIMED_CALLS = 3  # warm-up calls before the clock starts


class Latency(NamedTuple):
    """Milliseconds per query."""

    median: float
    p95: float


def measure_query_latency(ask: Callable[[QueryT], object], queries: Sequence[QueryT]) -> Latency:
    """Time `ask` on each of `queries`; call it inside `limit_to_one_thread`."""
    for query in queries[:UNTIMED_CALLS]:
        ask(query)
    seconds = []
    for query in queries:
        begun = time.perf_counter()
        ask(query)
        seconds.append(time.perf_counter() - begun)
    median, p95 = np.quantile(np.array(seconds) * 1000, [0.5, 0.95])
    return Latency(float(median), float(p95))


@contextmanager
def limit_to_one_thread() -> Iterator[None]:
    """Keep torch, numba, BLAS and OpenMP (and so faiss) to one thread each."""
    from threadpoolctl import threadpool_limits

    torch_threads, numba_threads = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(torch_threads)
        numba.set_num_threads(numba_threads)

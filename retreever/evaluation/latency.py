"""How long does one query take? One thread, one query at a time, everything warm."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import numba
import numpy as np
import torch

T = TypeVar("T")
WARM = 3  # calls before the clock starts


class Latency(NamedTuple):
    """Milliseconds a query."""

    median: float
    p95: float


def measure(ask: Callable[[T], object], queries: Sequence[T]) -> Latency:
    """Time `ask` on each of `queries`; call it inside `one_thread`."""
    for query in queries[:WARM]:
        ask(query)
    seconds = []
    for query in queries:
        begun = time.perf_counter()
        ask(query)
        seconds.append(time.perf_counter() - begun)
    median, p95 = np.quantile(np.array(seconds) * 1000, [0.5, 0.95])
    return Latency(float(median), float(p95))


@contextmanager
def one_thread() -> Iterator[None]:
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

"""Parallel work in threads, for functions that release Python's global lock."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

PROCESSOR_COUNT = os.cpu_count() or 1
ThreadItem = TypeVar("ThreadItem")
ThreadResult = TypeVar("ThreadResult")


def map_in_threads(
    function: Callable[[ThreadItem], ThreadResult], items: Sequence[ThreadItem], threads: int | None = None
) -> list[ThreadResult]:
    """Apply a function to items in parallel; return its results in the items' order.

    Args:
        threads: number of threads; None: one a processor.
    """
    workers = min(len(items), threads or PROCESSOR_COUNT)
    if workers < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))

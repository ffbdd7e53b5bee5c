"""Work that does not hold Python's lock, side by side."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

PROCESSORS = os.cpu_count() or 1
Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(function: Callable[[Item], Result], items: Sequence[Item], threads: int | None = None) -> list[Result]:
    """What a function makes of items, in their order.

    Args:
        threads: how many are worked on at a time; as many as there are processors where it is None.
    """
    workers = min(len(items), threads or PROCESSORS)
    if workers < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))

"""Loading the batch of a step in a thread, while the step before it is computed."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Batch = TypeVar("Batch")


class Prefetcher(Generic[Batch]):
    """Calls `load(step)` for consecutive steps; a thread loads the next batch ahead.

    Args:
        load: a pure function of the step; it runs in another thread.
        end: the first step that is not loaded ahead.
    """

    def __init__(self, load: Callable[[int], Batch], end: int):
        self._load, self._end = load, end
        self._thread = ThreadPoolExecutor(1, "batches")
        self._started: dict[int, Future[Batch]] = {}

    def __call__(self, step: int) -> Batch:
        """The batch of `step`; an error of `load` is raised here."""
        present = self._started.pop(step, None) or self._thread.submit(self._load, step)
        if step + 1 < self._end:
            self._started = {step + 1: self._thread.submit(self._load, step + 1)}
        return present.result()

    def close(self) -> None:
        """End the thread; no batch can be loaded afterwards."""
        self._thread.shutdown(cancel_futures=True)

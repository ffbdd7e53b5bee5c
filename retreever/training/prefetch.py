"""What a step trains on, read while the step before it is still computed."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """`load(step)` for steps asked in order; the next one is already under way in a thread when its turn comes.

    Args:
        load: a pure function of the step; it runs in another thread.
        end: the first step that is never asked for.
    """

    def __init__(self, load: Callable[[int], T], end: int):
        self._load, self._end = load, end
        self._thread = ThreadPoolExecutor(1, "batches")
        self._started: dict[int, Future[T]] = {}

    def __call__(self, step: int) -> T:
        """What `load` gives for `step`; its error is raised here."""
        present = self._started.pop(step, None) or self._thread.submit(self._load, step)
        if step + 1 < self._end:
            self._started = {step + 1: self._thread.submit(self._load, step + 1)}
        return present.result()

    def close(self) -> None:
        """End the thread; nothing more can be asked for."""
        self._thread.shutdown(cancel_futures=True)

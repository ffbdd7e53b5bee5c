"""Joins the requests that wait into batches, without a pause to fill them. What a batch does is not known here.

A request starts at once, alone, while no batch runs. Later requests wait, and the next batch takes them together. A
full batch starts beside a running one, while fewer run than may. So a single caller waits for nobody, and batches grow
with the load. Serve's own `batch` forms a batch before it waits for its turn: without a pause its batches hold one
request, and with a pause everybody waits.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, TypeVar

from retreever.service.refusal import RefusalError

RequestType = TypeVar("RequestType")
ResultType = TypeVar("ResultType")


@dataclass
class _PendingRequest(Generic[RequestType, ResultType]):
    item: RequestType
    texts: int
    enqueued_at: float
    done: "asyncio.Future[tuple[ResultType, float]]"


class RequestBatcher(Generic[RequestType, ResultType]):
    """A queue of requests and the batches made of it.

    Args:
        run: answers a batch with one result each, in order; an exception among them is raised for its request.
        max_batch: texts of a batch; a request with more texts forms a batch alone.
        max_concurrent: batches that run at the same time.
        max_waiting: texts that may wait; further requests are refused with 429, unless nothing waits.

    Attributes:
        waiting: texts that wait.
    """

    def __init__(
        self,
        run: Callable[[list[RequestType]], Awaitable[list[ResultType | Exception]]],
        max_batch: int,
        max_concurrent: int,
        max_waiting: int,
    ):
        self._run, self._max_waiting = run, max_waiting
        self._max_batch, self._max_concurrent = max_batch, max_concurrent
        self._queue: deque[_PendingRequest[RequestType, ResultType]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = self.waiting = 0

    async def submit(self, item: RequestType, texts: int) -> tuple[ResultType, float]:
        """Return the result of a request that holds `texts` texts, and the seconds that it waited.

        Raises:
            RefusalError: too many texts wait already.
        """
        if self.waiting and self.waiting + texts > self._max_waiting:
            raise RefusalError(429, f"busy: {self.waiting} texts wait already", retry_after=1)
        done = asyncio.get_running_loop().create_future()
        pending = _PendingRequest[RequestType, ResultType](item, texts, time.perf_counter(), done)
        self._queue.append(pending)
        self.waiting += texts
        self._start_batches()
        return await pending.done

    def _start_batches(self) -> None:
        while self._queue and (not self._running or self._may_run_beside()):
            batch = self._take_batch()
            if batch:
                self._running += 1
                # in a fresh context: Serve would otherwise cancel the batch with the request that happened to start it
                task = asyncio.create_task(self._run_batch(batch), context=Context())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _may_run_beside(self) -> bool:
        """Whether what waits fills a batch: a smaller one would be less than what comes together until the end."""
        return self._running < self._max_concurrent and self.waiting >= self._max_batch

    def _take_batch(self) -> list[_PendingRequest[RequestType, ResultType]]:
        batch: list[_PendingRequest[RequestType, ResultType]] = []
        size = 0
        while self._queue and (not batch or size + self._queue[0].texts <= self._max_batch):
            first = self._queue.popleft()
            self.waiting -= first.texts
            if not first.done.done():  # its caller still waits
                batch.append(first)
                size += first.texts
        return batch

    async def _run_batch(self, batch: list[_PendingRequest[RequestType, ResultType]]) -> None:
        begun = time.perf_counter()
        try:
            results: list[ResultType | Exception] = await self._run([pending.item for pending in batch])
        except Exception as error:
            results = [error] * len(batch)
        finally:
            self._running -= 1
            self._start_batches()  # the next batch starts before these callers get their results, which takes a while
        for pending, result in zip(batch, results, strict=True):
            if pending.done.done():
                continue
            if isinstance(result, Exception):
                pending.done.set_exception(result)
            else:
                pending.done.set_result((result, begun - pending.enqueued_at))

"""Requests that wait go together: batches without a pause to fill them.

A request that finds nothing running starts at once, alone. What comes meanwhile waits, and is taken as one batch when a
running one is done. So a single caller waits for nobody, and batches grow with the load. (Serve's own `batch` forms a
batch before it waits for its turn: without a pause its batches are of one, and with a pause everybody waits.)
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, TypeVar

from retreever.service.refusal import Refused

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class _Waiting(Generic[Item, Result]):
    item: Item
    texts: int
    since: float
    done: "asyncio.Future[tuple[Result, float]]"


class Gather(Generic[Item, Result]):
    """Batches of what waits.

    Args:
        run: answers a batch, a result for each in order; an exception among them is raised for its request.
        largest: texts of a batch; one request may hold more and then goes alone.
        at_once: batches that run side by side.
        most: texts that may wait; further requests are refused with 429, unless nothing waits.
    """

    def __init__(
        self, run: Callable[[list[Item]], Awaitable[list[Result | Exception]]], largest: int, at_once: int, most: int
    ):
        self._run, self._largest, self._at_once, self._most = run, largest, at_once, most
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = self.waiting = 0

    async def ask(self, item: Item, texts: int) -> tuple[Result, float]:
        """The result for a request of so many texts, and the seconds that it waited.

        Raises:
            Refused: too many wait already.
        """
        if self.waiting and self.waiting + texts > self._most:
            raise Refused(429, f"busy: {self.waiting} texts wait already", retry_after=1)
        done = asyncio.get_running_loop().create_future()
        waiting = _Waiting[Item, Result](item, texts, time.perf_counter(), done)
        self._queue.append(waiting)
        self.waiting += texts
        self._start()
        return await waiting.done

    def _start(self) -> None:
        while self._queue and self._running < self._at_once:
            batch = self._take()
            if batch:
                self._running += 1
                # in a context of its own: Serve would end the batch with the request that happened to start it
                task = asyncio.create_task(self._answer(batch), context=Context())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _take(self) -> list[_Waiting[Item, Result]]:
        batch: list[_Waiting[Item, Result]] = []
        size = 0
        while self._queue and (not batch or size + self._queue[0].texts <= self._largest):
            first = self._queue.popleft()
            self.waiting -= first.texts
            if not first.done.done():  # the caller has not gone
                batch.append(first)
                size += first.texts
        return batch

    async def _answer(self, batch: list[_Waiting[Item, Result]]) -> None:
        begun = time.perf_counter()
        try:
            results: list[Result | Exception] = await self._run([waiting.item for waiting in batch])
        except Exception as error:
            results = [error] * len(batch)
        finally:
            self._running -= 1
            self._start()  # the next batch is on its way before these callers are told, which takes a while
        for waiting, result in zip(batch, results, strict=True):
            if waiting.done.done():
                continue
            if isinstance(result, Exception):
                waiting.done.set_exception(result)
            else:
                waiting.done.set_result((result, begun - waiting.since))

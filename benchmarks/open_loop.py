"""Searches sent at given moments, whether or not earlier ones were answered: load does not wait for the service."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field

import aiohttp
import numpy as np

PATIENCE_S = 45


@dataclass
class Outcome:
    """What came of a load.

    Attributes:
        statuses: answers by HTTP status; 0 where the connection broke.
        seconds: of the answers with status 200, in the order in which they came.
        versions: answers by the version that made them.
        wall: seconds from the first request to the last answer.
        faults: what refusals other than 429 said, some of them.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    versions: Counter[str] = field(default_factory=Counter)
    wall: float = 0.0
    faults: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Answers that are neither 200 nor 429."""
        return sum(count for status, count in self.statuses.items() if status not in (200, 429))

    @property
    def rate(self) -> float:
        """Answers with status 200 a second."""
        return self.statuses[200] / max(self.wall, 1e-9)

    def quantile(self, share: float) -> float:
        """Milliseconds within which such a share of the 200s came; infinite where there is none."""
        return float(np.quantile(self.seconds, share)) * 1000 if self.seconds else float("inf")

    def __str__(self) -> str:
        counts = ", ".join(f"{count} x {status}" for status, count in sorted(self.statuses.items()))
        return f"{self.rate:.0f} a second, p50 {self.quantile(0.5):.1f} ms, p99 {self.quantile(0.99):.1f} ms ({counts})"


class Load:
    """A stream of searches for one service.

    Args:
        retries: how often a request that was refused or lost is sent again, a second later.
        together: queries of a request.
    """

    def __init__(self, url: str, queries: list[str], k: int = 10, retries: int = 0, together: int = 1):
        self._url, self._queries, self._k, self._retries = f"{url}/v1/search", queries, k, retries
        self._together = together
        self.outcome = Outcome()

    async def open(self, rate: float, seconds: float, until: "asyncio.Event | None" = None) -> Outcome:
        """Send `rate` requests a second, at even distances, for so long or until the event is set."""
        async with self._session() as session:
            begun, tasks, sent = time.perf_counter(), set(), 0
            while (now := time.perf_counter() - begun) < seconds and not (until and until.is_set()):
                while sent <= now * rate:
                    task = asyncio.create_task(self._one(session, sent))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                    sent += 1
                await asyncio.sleep(max(0.0, sent / rate - (time.perf_counter() - begun)))
            await asyncio.gather(*tasks)
            self.outcome.wall = time.perf_counter() - begun
        return self.outcome

    async def closed(self, clients: int, requests: int, seconds: float = float("inf")) -> Outcome:
        """So many clients, each of which asks again when it is answered, for so long at most."""
        async with self._session() as session:
            begun = time.perf_counter()

            async def client(first: int) -> None:
                for number in range(first, requests, clients):
                    if time.perf_counter() - begun < seconds:
                        await self._one(session, number)

            await asyncio.gather(*(client(first) for first in range(clients)))
            self.outcome.wall = time.perf_counter() - begun
        return self.outcome

    def _session(self) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)

    async def _one(self, session: aiohttp.ClientSession, number: int) -> None:
        own = [self._queries[(number * self._together + i) % len(self._queries)] for i in range(self._together)]
        asked = {"query": own[0]} if self._together == 1 else {"queries": own}
        asked |= {"k": self._k}
        for left in reversed(range(self._retries + 1)):
            begun = time.perf_counter()
            try:
                async with session.post(self._url, json=asked) as reply:
                    status, body = reply.status, await reply.text()
            except (aiohttp.ClientError, TimeoutError) as error:
                status, body = 0, repr(error)
            if status == 200 or not left:
                return self._note(status, body, time.perf_counter() - begun)
            await asyncio.sleep(1)

    def _note(self, status: int, body: str, seconds: float) -> None:
        self.outcome.statuses[status] += 1
        if status == 200:
            self.outcome.seconds.append(seconds)
            self.outcome.versions[json.loads(body)["model"]["version"]] += 1
        elif status != 429 and len(self.outcome.faults) < 5:
            self.outcome.faults.append(f"{status}: {body[:200]}")

"""Load generator: an open loop, which sends at a fixed rate whatever the answers, and a closed loop."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field

import aiohttp
import numpy as np

REQUEST_TIMEOUT_S = 45


@dataclass
class LoadOutcome:
    """Answers to a load.

    Attributes:
        statuses: number of answers by HTTP status; 0 for a broken connection.
        seconds: latency of each answer with status 200, in order of arrival.
        versions: number of answers by the version that answered.
        wall: seconds from the first request to the last answer.
        faults: up to five messages of failures.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    versions: Counter[str] = field(default_factory=Counter)
    wall: float = 0.0
    faults: list[str] = field(default_factory=list)

    @property
    def failures(self) -> int:
        """Answers that are neither 200 nor 429."""
        return sum(count for status, count in self.statuses.items() if status not in (200, 429))

    @property
    def rate(self) -> float:
        """Answers with status 200 per second."""
        return self.statuses[200] / max(self.wall, 1e-9)

    def quantile(self, share: float) -> float:
        """Milliseconds within which this share of the answers with status 200 came; infinite without any."""
        return float(np.quantile(self.seconds, share)) * 1000 if self.seconds else float("inf")

    def __str__(self) -> str:
        counts = ", ".join(f"{count} x {status}" for status, count in sorted(self.statuses.items()))
        return (
            f"{self.rate:.0f} per second, p50 {self.quantile(0.5):.1f} ms, p99 {self.quantile(0.99):.1f} ms ({counts})"
        )


class LoadGenerator:
    """A stream of searches for one service.

    Args:
        retries: how often a refused or lost request is sent again, one second later.
        queries_per_request: above 1, requests are batches.
    """

    def __init__(self, url: str, queries: list[str], k: int = 10, retries: int = 0, queries_per_request: int = 1):
        self._url, self._queries, self._k, self._retries = f"{url}/v1/search", queries, k, retries
        self._queries_per_request = queries_per_request
        self.outcome = LoadOutcome()

    async def run_open_loop(self, rate: float, seconds: float, until: "asyncio.Event | None" = None) -> LoadOutcome:
        """Send `rate` requests per second, evenly spaced, for `seconds` or until the event is set."""
        async with self._session() as session:
            begun, tasks, sent = time.perf_counter(), set(), 0
            while (now := time.perf_counter() - begun) < seconds and not (until and until.is_set()):
                while sent <= now * rate:
                    task = asyncio.create_task(self._send(session, sent))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                    sent += 1
                await asyncio.sleep(max(0.0, sent / rate - (time.perf_counter() - begun)))
            await asyncio.gather(*tasks)
            self.outcome.wall = time.perf_counter() - begun
        return self.outcome

    async def run_closed_loop(self, clients: int, requests: int, seconds: float = float("inf")) -> LoadOutcome:
        """Run `clients`, each of which sends its next request after an answer, for `seconds` at most."""
        async with self._session() as session:
            begun = time.perf_counter()

            async def client(first: int) -> None:
                for number in range(first, requests, clients):
                    if time.perf_counter() - begun < seconds:
                        await self._send(session, number)

            await asyncio.gather(*(client(first) for first in range(clients)))
            self.outcome.wall = time.perf_counter() - begun
        return self.outcome

    def _session(self) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)

    async def _send(self, session: aiohttp.ClientSession, number: int) -> None:
        own = [
            self._queries[(number * self._queries_per_request + i) % len(self._queries)]
            for i in range(self._queries_per_request)
        ]
        payload = {"k": self._k, **({"query": own[0]} if self._queries_per_request == 1 else {"queries": own})}
        for remaining in reversed(range(self._retries + 1)):
            begun = time.perf_counter()
            try:
                async with session.post(self._url, json=payload) as reply:
                    status, body = reply.status, await reply.text()
            except (aiohttp.ClientError, TimeoutError) as error:
                status, body = 0, repr(error)
            if status == 200 or not remaining:
                return self._record(status, body, time.perf_counter() - begun)
            await asyncio.sleep(1)

    def _record(self, status: int, body: str, seconds: float) -> None:
        self.outcome.statuses[status] += 1
        if status == 200:
            self.outcome.seconds.append(seconds)
            self.outcome.versions[json.loads(body)["model"]["version"]] += 1
        elif status != 429 and len(self.outcome.faults) < 5:
            self.outcome.faults.append(f"{status}: {body[:200]}")

"""What stands behind the HTTP interface: versions at work, which of them is asked, what waits, what is measured.

Where the versions run is not known here: in this process, or in Ray's.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from retreever.data.dataset import Passage
from retreever.service.http.prometheus_metrics import Metrics
from retreever.service.refusal import Refused
from retreever.service.request_batcher import Gather
from retreever.service.schema import EmbedRequest, ModelState, SearchRequest, VersionInfo
from retreever.service.version.answers import Answer
from retreever.service.version.engine import Look

LARGEST = 16  # queries of a batch
COMPARED = 16  # comparisons under way; beyond that they are left out


class Working(Protocol):
    """A version at work."""

    async def search(self, asked: list[SearchRequest]) -> list[Answer | Exception]:
        """Answers to requests that came together."""

    async def embed(self, asked: EmbedRequest) -> bytes | Refused:
        """Texts as probabilities of a level, in JSON."""

    async def look(self, what: Look, *arguments: Any) -> bytes | Refused:
        """The tree, a node, or documents, in JSON."""


class Writing(Protocol):
    """Who changes the corpus and the versions."""

    async def add(self, passages: Sequence[Passage]) -> bytes | Refused:
        """Add passages."""

    async def delete(self, ids: Sequence[str]) -> bytes | Refused:
        """Delete passages."""

    async def reload(self) -> None:
        """See whether another version is to serve."""


class Live:
    """A version as seen from here, and the searches that wait for it.

    Args:
        most: queries that may wait.
        at_once: batches under way; the more there are, the smaller they are.
    """

    def __init__(self, info: VersionInfo, working: Working, metrics: Metrics, most: int, at_once: int = 2):
        self.info, self.working, self._metrics = info, working, metrics
        self._gather: Gather[SearchRequest, Answer] = Gather(self._run, LARGEST, at_once, most)

    async def _run(self, asked: list[SearchRequest]) -> list[Answer | Exception]:
        self._metrics.batches.observe(sum(len(one.texts) for one in asked))
        return await self.working.search(asked)

    async def search(self, asked: SearchRequest) -> Answer:
        """An answer.

        Raises:
            Refused: too much waits, or the request asks for what is not there.
        """
        try:
            answer, waited = await self._gather.ask(asked, len(asked.texts))
        finally:
            self._metrics.waiting.set(self._gather.waiting)
        for stage, seconds in {"wait": waited, **answer.stages}.items():
            self._metrics.stages.labels(stage, answer.level, self.info.version).observe(seconds)
        return answer


class Front:
    """The backend of the HTTP interface.

    Args:
        exposition: the figures of all such processes; of this one alone where it is None.
        look_up: takes over at once which versions serve.

    Attributes:
        champion, canary: the versions that serve; None where there is none.
        faults: why what is asked for as champion and as canary does not serve.
    """

    def __init__(
        self,
        writing: Writing,
        metrics: Metrics,
        exposition: Callable[[], Awaitable[str]] | None = None,
        look_up: Callable[[], Awaitable[None]] | None = None,
    ):
        self._writing, self.metrics, self._exposition, self._look_up = writing, metrics, exposition, look_up
        self.champion: Live | None = None
        self.canary: Live | None = None
        self.faults: tuple[str | None, str | None] = (None, None)
        self._comparisons: set[asyncio.Task[None]] = set()

    def _serving(self) -> Live:
        if self.champion is None:
            raise Refused(503, self.faults[0] or "no version serves yet", retry_after=2)
        return self.champion

    async def search(self, asked: SearchRequest) -> bytes:
        """Best passages. A share of the searches goes to the canary; explanations belong to the champion's tree."""
        champion, canary = self._serving(), self.canary
        if canary is None or asked.explain or random.random() >= canary.info.share:
            return (await champion.search(asked)).body
        try:
            answer = await canary.search(asked)
        except Refused as refused:
            if refused.status < 500 and refused.status != 429:
                raise
            return (await champion.search(asked)).body  # who is tried must not make callers wait
        if len(self._comparisons) < COMPARED:
            task = asyncio.create_task(self._compare(asked, answer, champion, canary))
            self._comparisons.add(task)
            task.add_done_callback(self._comparisons.discard)
        return answer.body

    async def _compare(self, asked: SearchRequest, answer: Answer, champion: Live, canary: Live) -> None:
        try:
            other = await champion.search(asked)
        except Refused:  # busy: callers go first
            return
        share = len(set(answer.ids) & set(other.ids)) / max(1, len(answer.ids))
        self.metrics.agreement.labels(champion.info.version, canary.info.version).observe(share)

    async def embed(self, asked: EmbedRequest) -> bytes:
        """Texts at a level."""
        return _given(await self._serving().working.embed(asked))

    async def look(self, what: Look, *arguments: Any) -> bytes:
        """The tree, a node, or documents."""
        return _given(await self._serving().working.look(what, *arguments))

    async def add(self, passages: Sequence[Passage]) -> bytes:
        """Add passages."""
        self._serving()
        return _given(await self._writing.add(passages))

    async def delete(self, ids: Sequence[str]) -> bytes:
        """Delete passages."""
        self._serving()
        return _given(await self._writing.delete(ids))

    async def reload(self) -> None:
        """See whether another version is to serve, and wait until it does or has failed to."""
        await self._writing.reload()
        if self._look_up is not None:
            await self._look_up()

    def state(self) -> ModelState | None:
        """The versions that serve."""
        if self.champion is None:
            return None
        fault, canary_fault = self.faults
        return ModelState(
            **self.champion.info.model_dump(),
            fault=fault,
            canary=self.canary and self.canary.info,
            canary_fault=canary_fault,
        )

    def fault(self) -> str | None:
        """Why what is asked for does not serve."""
        return self.faults[0]

    async def exposition(self) -> str:
        """All figures."""
        return self.metrics.text() if self._exposition is None else await self._exposition()


def _given(reply: bytes | Refused) -> bytes:
    if isinstance(reply, Refused):
        raise reply
    return reply

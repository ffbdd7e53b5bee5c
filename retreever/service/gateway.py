"""Chooses the version that answers a request, queues searches, and measures them.

Where the controller runs, in this process or in Ray's, is not known here.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from retreever.data.dataset import Passage
from retreever.service.contract import ControlPlane, ReadMethod, Reply, SearchAnswer
from retreever.service.http.service_metrics import ServiceMetrics
from retreever.service.refusal import RefusalError
from retreever.service.request_batcher import RequestBatcher
from retreever.service.schema import EmbedRequest, ModelState, SearchRequest, VersionInfo
from retreever.service.version.engine import Engine

MAX_BATCH_QUERIES = 32  # queries of a batch
MAX_CONCURRENT_BATCHES = 2  # one is encoded while another is searched and written as JSON
MAX_SHADOW_REQUESTS = 16  # shadow requests that run at the same time; beyond it a canary's answer is not compared


class LiveVersion:
    """A running version with the searches that wait for it.

    Args:
        max_waiting: queries that may wait; further searches are refused.
    """

    def __init__(self, info: VersionInfo, engine: Engine, metrics: ServiceMetrics, max_waiting: int):
        self.info, self.engine, self._metrics = info, engine, metrics
        self._batcher: RequestBatcher[SearchRequest, SearchAnswer] = RequestBatcher(
            self._search_batch, MAX_BATCH_QUERIES, MAX_CONCURRENT_BATCHES, max_waiting
        )

    async def _search_batch(self, requests: list[SearchRequest]) -> list[SearchAnswer | Exception]:
        self._metrics.observe_batch(sum(len(request.texts) for request in requests))
        self._metrics.set_waiting(self._batcher.waiting)
        return await self.engine.search(requests)

    async def search(self, request: SearchRequest) -> SearchAnswer:
        """Search as soon as a batch starts.

        Raises:
            RefusalError: too many queries wait, or the version refuses the request.
        """
        answer, waited = await self._batcher.submit(request, len(request.texts))
        answer = replace(answer, stages={"wait": waited, **answer.stages}, version=self.info.version)
        self._metrics.observe_stages(answer)
        return answer


class Gateway:
    """The service behind the HTTP interface.

    Args:
        max_waiting: queries that may wait for a version; further searches are refused.
        update_versions: fetches which versions serve; called after a reload.

    Attributes:
        champion, canary: the versions that serve; None where there is none.
        faults: why the desired champion and the desired canary do not serve; None where they do.
    """

    def __init__(
        self,
        control: ControlPlane,
        metrics: ServiceMetrics,
        max_waiting: int = 64,
        update_versions: Callable[[], Awaitable[None]] | None = None,
    ):
        self._control, self.metrics, self._max_waiting = control, metrics, max_waiting
        self._update_versions = update_versions
        self.champion: LiveVersion | None = None
        self.canary: LiveVersion | None = None
        self.faults: tuple[str | None, str | None] = (None, None)
        self._shadow_requests: set[asyncio.Task[None]] = set()

    def make_live(self, info: VersionInfo, engine: Engine) -> LiveVersion:
        """Give a version its queue."""
        return LiveVersion(info, engine, self.metrics, self._max_waiting)

    def _require_champion(self) -> LiveVersion:
        if self.champion is None:
            raise RefusalError(503, self.faults[0] or "no version serves yet", retry_after=2)
        return self.champion

    async def search(self, request: SearchRequest) -> SearchAnswer:
        """Find the best passages.

        The canary answers a share of the searches. The champion answers all that ask for an explanation: the page
        draws its tree.

        Raises:
            RefusalError: no version serves, or the version refuses the request.
        """
        champion, canary = self._require_champion(), self.canary
        if canary is None or request.explain or random.random() >= canary.info.share:
            return await champion.search(request)
        try:
            answer = await canary.search(request)
        except RefusalError as refused:
            if refused.status < 500 and refused.status != 429:
                raise
            return await champion.search(request)  # a canary that is lost or busy must not fail callers
        if len(self._shadow_requests) < MAX_SHADOW_REQUESTS:
            task = asyncio.create_task(self._compare_answers(request, answer, champion, canary))
            self._shadow_requests.add(task)
            task.add_done_callback(self._shadow_requests.discard)
        return answer

    async def _compare_answers(
        self, request: SearchRequest, answer: SearchAnswer, champion: LiveVersion, canary: LiveVersion
    ) -> None:
        try:
            other = await champion.search(request)
        except RefusalError:  # the champion is busy; callers go first
            return
        share = len(set(answer.ids) & set(other.ids)) / max(1, len(answer.ids))
        self.metrics.observe_agreement(champion.info.version, canary.info.version, share)

    async def embed(self, request: EmbedRequest) -> Reply:
        """Embed texts with the champion."""
        return await self._require_champion().engine.embed(request)

    async def read(self, method: ReadMethod, *arguments: Any) -> Reply:
        """Read the champion's tree, a node, or documents."""
        return await self._require_champion().engine.read(method, *arguments)

    async def add(self, passages: Sequence[Passage]) -> Reply:
        """Add passages."""
        self._require_champion()
        return await self._control.add(passages)

    async def delete(self, ids: Sequence[str]) -> Reply:
        """Delete passages."""
        self._require_champion()
        return await self._control.delete(ids)

    async def reload(self) -> None:
        """Look for another version to serve; wait until it serves or has failed to load.

        Raises:
            RefusalError: the controller is lost.
        """
        refused = await self._control.reload()
        if refused is not None:
            raise refused
        if self._update_versions is not None:
            await self._update_versions()

    def get_state(self) -> ModelState | None:
        """Describe the versions that serve; None where there is no champion."""
        if self.champion is None:
            return None
        fault, canary_fault = self.faults
        return ModelState(
            **self.champion.info.model_dump(),
            fault=fault,
            canary=self.canary and self.canary.info,
            canary_fault=canary_fault,
        )

    def get_fault(self) -> str | None:
        """Say why the desired champion does not serve; None where it does."""
        return self.faults[0]

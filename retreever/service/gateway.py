"""Chooses the version that answers a request, queues searches, and measures them.

Where versions and controller run, in this process or in Ray's, is not known here.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from retreever.data.dataset import Passage
from retreever.service.contract import ControlPlane, ReadMethod, Reply, SearchAnswer, VersionReader
from retreever.service.http.prometheus_metrics import ServiceMetrics
from retreever.service.refusal import RefusalError
from retreever.service.request_batcher import RequestBatcher
from retreever.service.schema import EmbedRequest, ModelState, SearchRequest, VersionInfo

MAX_BATCH_QUERIES = 16  # queries of a batch
MAX_SHADOW_REQUESTS = 16  # shadow requests that run at the same time; beyond it a canary's answer is not compared


class LiveVersion:
    """A running version with the searches that wait for it.

    Args:
        max_waiting: queries that may wait; further searches are refused.
        max_concurrent: batches that run at the same time; the more there are, the smaller they are.
    """

    def __init__(
        self,
        info: VersionInfo,
        engine: VersionReader,
        metrics: ServiceMetrics,
        max_waiting: int,
        max_concurrent: int = 2,
    ):
        self.info, self.engine, self._metrics = info, engine, metrics
        self._batcher: RequestBatcher[SearchRequest, SearchAnswer] = RequestBatcher(
            self._search_batch, MAX_BATCH_QUERIES, max_concurrent, max_waiting
        )

    async def _search_batch(self, requests: list[SearchRequest]) -> list[SearchAnswer | Exception]:
        self._metrics.batches.observe(sum(len(request.texts) for request in requests))
        return await self.engine.search(requests)

    async def search(self, request: SearchRequest) -> SearchAnswer:
        """Search as soon as a batch starts.

        Raises:
            RefusalError: too many queries wait, or the version refuses the request.
        """
        try:
            answer, waited = await self._batcher.submit(request, len(request.texts))
        finally:
            self._metrics.waiting.set(self._batcher.waiting)
        for stage, seconds in {"wait": waited, **answer.stages}.items():
            self._metrics.stages.labels(stage, answer.level, self.info.version).observe(seconds)
        return answer


class Gateway:
    """The service behind the HTTP interface.

    Args:
        collect_metrics: returns the metrics of all gateways; without it, this gateway's alone are shown.
        update_versions: fetches which versions serve; called after a reload.

    Attributes:
        champion, canary: the versions that serve; None where there is none.
        faults: why the desired champion and the desired canary do not serve; None where they do.
    """

    def __init__(
        self,
        control: ControlPlane,
        metrics: ServiceMetrics,
        collect_metrics: Callable[[], Awaitable[str]] | None = None,
        update_versions: Callable[[], Awaitable[None]] | None = None,
    ):
        self._control, self.metrics = control, metrics
        self._collect_metrics, self._update_versions = collect_metrics, update_versions
        self.champion: LiveVersion | None = None
        self.canary: LiveVersion | None = None
        self.faults: tuple[str | None, str | None] = (None, None)
        self._shadow_requests: set[asyncio.Task[None]] = set()

    def _require_champion(self) -> LiveVersion:
        if self.champion is None:
            raise RefusalError(503, self.faults[0] or "no version serves yet", retry_after=2)
        return self.champion

    async def search(self, request: SearchRequest) -> bytes:
        """Find the best passages, in JSON.

        The canary answers a share of the searches. The champion answers all that ask for an explanation: the page
        draws its tree.

        Raises:
            RefusalError: no version serves, or the version refuses the request.
        """
        champion, canary = self._require_champion(), self.canary
        if canary is None or request.explain or random.random() >= canary.info.share:
            return (await champion.search(request)).body
        try:
            answer = await canary.search(request)
        except RefusalError as refused:
            if refused.status < 500 and refused.status != 429:
                raise
            return (await champion.search(request)).body  # a canary that is lost or busy must not fail callers
        if len(self._shadow_requests) < MAX_SHADOW_REQUESTS:
            task = asyncio.create_task(self._compare_answers(request, answer, champion, canary))
            self._shadow_requests.add(task)
            task.add_done_callback(self._shadow_requests.discard)
        return answer.body

    async def _compare_answers(
        self, request: SearchRequest, answer: SearchAnswer, champion: LiveVersion, canary: LiveVersion
    ) -> None:
        try:
            other = await champion.search(request)
        except RefusalError:  # the champion is busy; callers go first
            return
        share = len(set(answer.ids) & set(other.ids)) / max(1, len(answer.ids))
        self.metrics.agreement.labels(champion.info.version, canary.info.version).observe(share)

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
        """Look for another version to serve; wait until it serves or has failed to load."""
        await self._control.reload()
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

    async def expose_metrics(self) -> str:
        """Write the metrics in Prometheus' text format."""
        return self.metrics.render_text() if self._collect_metrics is None else await self._collect_metrics()

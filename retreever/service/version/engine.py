"""A running version: routes texts, then searches, embeds or adds them. Ray and HTTP are not known here.

Refusals are returned, not raised; `contract.py` says why.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from pydantic import BaseModel

from retreever.data.dataset import Passage
from retreever.encoding.tokenized_texts import TextKind
from retreever.errors import BundleError
from retreever.service.contract import ReadMethod, Reply, SearchAnswer
from retreever.service.controller.bundle_changes import BundleChanges
from retreever.service.encoder.text_router import RoutedTexts
from retreever.service.refusal import RefusalError
from retreever.service.schema import EmbedRequest, SearchRequest
from retreever.service.version.answers import RequestHandler

RouteFunction = Callable[[Sequence[str], TextKind], Awaitable[RoutedTexts]]
ADD_BATCH_PASSAGES = 8  # passages routed at a time; searches get their turn in between
CATCH_UP_BATCH_PASSAGES = 64  # passages added at a time


class Engine:
    """A version of the contract: a bundle, and a function that routes texts for it."""

    def __init__(self, handler: RequestHandler, route: RouteFunction):
        self.handler, self._route = handler, route

    async def search(self, requests: list[SearchRequest]) -> list[SearchAnswer | Exception]:
        """Answer a batch of requests, one answer or exception each, in order."""
        routed = await self._route([text for one in requests for text in one.texts], "query")
        starts = np.cumsum([0] + [len(one.texts) for one in requests])
        parts = [routed.nodes[start:end] for start, end in pairwise(starts)]
        found = await asyncio.to_thread(self.handler.search, requests, parts)
        for number, fault in routed.faults.items():
            found[int(np.searchsorted(starts, number, side="right")) - 1] = RefusalError.for_field("query", fault)
        encode = {"encode": routed.seconds}
        return [replace(one, stages=encode | one.stages) if isinstance(one, SearchAnswer) else one for one in found]

    async def embed(self, request: EmbedRequest) -> Reply:
        """Embed texts as node probabilities of a level."""
        routed = await self._route(request.texts, request.kind)
        if routed.faults:
            return RefusalError.for_field("texts", next(iter(routed.faults.values())))
        return await _serialize_reply(self.handler.make_embeddings, routed.nodes, request.level)

    async def read(self, method: ReadMethod, *arguments: Any) -> Reply:
        """Read the tree, a node, or documents."""
        return await _serialize_reply(getattr(self.handler, method), *arguments)

    async def add(self, passages: Sequence[Passage]) -> Reply:
        """Add passages; they are on disk, and the next search finds them, when this returns."""
        nodes = []
        for start in range(0, len(passages), ADD_BATCH_PASSAGES):
            routed = await self._route([p.full_text for p in passages[start : start + ADD_BATCH_PASSAGES]], "passage")
            if routed.faults:
                return RefusalError.for_field("documents", next(iter(routed.faults.values())))
            nodes.append(routed.nodes)
        return await _serialize_reply(self.handler.add, passages, np.concatenate(nodes))

    async def delete(self, ids: Sequence[str]) -> Reply:
        """Delete passages; the change is on disk, and no search finds them, when this returns."""
        return await _serialize_reply(self.handler.delete, ids)

    async def catch_up(self, wanted: BundleChanges) -> int:
        """Make the changes that another version has; return how many passages that took.

        Raises:
            RefusalError: a passage cannot be added.
        """
        missing = await asyncio.to_thread(self.handler.find_missing_changes, wanted)
        if missing.deleted:
            _raise_refusal(await self.delete(sorted(missing.deleted)))
        passages = list(missing.added.values())
        for start in range(0, len(passages), CATCH_UP_BATCH_PASSAGES):
            _raise_refusal(await self.add(passages[start : start + CATCH_UP_BATCH_PASSAGES]))
        return len(passages) + len(missing.deleted)

    async def count_passages(self) -> int:
        """Count the passages of the corpus."""
        return await asyncio.to_thread(self.handler.count_passages)


def _raise_refusal(reply: Reply) -> None:
    if isinstance(reply, RefusalError):
        raise reply


async def _serialize_reply(call: Callable[..., BaseModel], *arguments: Any) -> Reply:
    try:
        return (await asyncio.to_thread(call, *arguments)).model_dump_json().encode()
    except RefusalError as refused:
        return refused
    except BundleError as error:
        return RefusalError(503, str(error), retry_after=1)

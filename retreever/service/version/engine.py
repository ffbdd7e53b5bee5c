"""A version at work: texts are routed, then searched, embedded or added. Ray and HTTP are not known here.

Refusals are returned, not raised: they travel between processes as they are.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel

from retreever.data.dataset import Passage
from retreever.encoding.encoder import Kind
from retreever.errors import BundleError
from retreever.service.controller.bundle_changes import Changes
from retreever.service.encoder.text_router import Routed
from retreever.service.refusal import Refused
from retreever.service.schema import EmbedRequest, SearchRequest
from retreever.service.version.answers import Answer, Answers

Route = Callable[[Sequence[str], Kind], Awaitable[Routed]]
Look = Literal["tree", "node", "documents", "listed"]
PASSAGES = 8  # routed at a time, so that searches get their turn between


class Engine:
    """A bundle and something that routes texts for it."""

    def __init__(self, answers: Answers, route: Route):
        self.answers, self._route = answers, route

    async def search(self, asked: list[SearchRequest]) -> list[Answer | Exception]:
        """Answers to requests that came together."""
        routed = await self._route([text for one in asked for text in one.texts], "query")
        starts = np.cumsum([0] + [len(one.texts) for one in asked])
        parts = [routed.nodes[start:end] for start, end in pairwise(starts)]
        found = await asyncio.to_thread(self.answers.search, asked, parts)
        for number, fault in routed.faults.items():
            found[int(np.searchsorted(starts, number, side="right")) - 1] = Refused.field("query", fault)
        encode = {"encode": routed.seconds}
        return [replace(one, stages=encode | one.stages) if isinstance(one, Answer) else one for one in found]

    async def embed(self, asked: EmbedRequest) -> bytes | Refused:
        """Texts as probabilities of a level, in JSON."""
        routed = await self._route(asked.texts, asked.kind)
        if routed.faults:
            return Refused.field("texts", next(iter(routed.faults.values())))
        return await _json(self.answers.embedded, routed.nodes, asked.level)

    async def look(self, what: Look, *arguments: Any) -> bytes | Refused:
        """The tree, a node, or documents, in JSON."""
        return await _json(getattr(self.answers, what), *arguments)

    async def add(self, passages: Sequence[Passage]) -> bytes | Refused:
        """Add passages: on disk and found before this returns."""
        nodes = []
        for start in range(0, len(passages), PASSAGES):
            routed = await self._route([p.full for p in passages[start : start + PASSAGES]], "passage")
            if routed.faults:
                return Refused.field("documents", next(iter(routed.faults.values())))
            nodes.append(routed.nodes)
        return await _json(self.answers.add, passages, np.concatenate(nodes))

    async def delete(self, ids: Sequence[str]) -> bytes | Refused:
        """Delete passages: on disk and not found any more before this returns."""
        return await _json(self.answers.delete, ids)

    async def catch_up(self, wanted: Changes) -> int:
        """Change this version as another one was changed; returns how many passages that took.

        Raises:
            Refused: a passage cannot be added.
        """
        lacking = await asyncio.to_thread(self.answers.behind, wanted)
        if lacking.deleted:
            _raised(await self.delete(sorted(lacking.deleted)))
        passages = list(lacking.added.values())
        for start in range(0, len(passages), 64):
            _raised(await self.add(passages[start : start + 64]))
        return len(passages) + len(lacking.deleted)

    def total(self) -> int:
        """How many passages there are."""
        return self.answers.total


def _raised(reply: bytes | Refused) -> None:
    if isinstance(reply, Refused):
        raise reply


async def _json(call: Callable[..., BaseModel], *arguments: Any) -> bytes | Refused:
    try:
        return (await asyncio.to_thread(call, *arguments)).model_dump_json().encode()
    except Refused as refused:
        return refused
    except BundleError as error:
        return Refused(503, str(error), retry_after=1)

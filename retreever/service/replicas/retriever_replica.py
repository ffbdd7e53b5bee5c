"""What Ray Serve runs of a version to search: index and texts."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from retreever.data.dataset import Passage
from retreever.encoding.encoder import Kind
from retreever.service.controller.bundle_changes import Changes
from retreever.service.encoder.text_router import Routed
from retreever.service.refusal import Refused
from retreever.service.replicas.deployment_options import SERVICE
from retreever.service.replicas.remote_version import LOST
from retreever.service.schema import EmbedRequest, SearchRequest
from retreever.service.version.answers import Answer, Answers
from retreever.service.version.engine import Engine, Look


@serve.deployment(**SERVICE)
class Retriever:
    """The index and the texts of a version, mapped: replicas of a node share what they read. It starts warm; Serve
    replaces a replica that fails its check.
    """

    def __init__(self, folder: str, version: str, threads: int, encoder: DeploymentHandle):
        self._encoder = encoder
        self._engine = Engine(Answers.open(Path(folder), version, threads), self._route)

    async def _route(self, texts: Sequence[str], kind: Kind) -> Routed:
        try:
            return await self._encoder.route.remote(texts, kind)
        except LOST:  # an encoder was lost: another one reads the same
            return await self._encoder.route.remote(texts, kind)

    async def search(self, asked: list[SearchRequest]) -> list[Answer | Exception]:
        """Answers to requests that came together."""
        return await self._engine.search(asked)

    async def embed(self, asked: EmbedRequest) -> bytes | Refused:
        """Texts as probabilities of a level, in JSON."""
        return await self._engine.embed(asked)

    async def look(self, what: Look, *arguments: Any) -> bytes | Refused:
        """The tree, a node, or documents, in JSON."""
        return await self._engine.look(what, *arguments)

    async def add(self, passages: Sequence[Passage]) -> bytes | Refused:
        """Add passages; on disk when it returns."""
        return await self._engine.add(passages)

    async def delete(self, ids: Sequence[str]) -> bytes | Refused:
        """Delete passages; on disk when it returns."""
        return await self._engine.delete(ids)

    async def catch_up(self, wanted: Changes) -> int:
        """Change this version as another one was changed."""
        return await self._engine.catch_up(wanted)

    async def total(self) -> int:
        """How many passages there are."""
        return await asyncio.to_thread(self._engine.total)

    async def check_health(self) -> None:
        """A search of our own; Serve replaces a replica that does not answer it."""
        await asyncio.to_thread(self._engine.answers.check)

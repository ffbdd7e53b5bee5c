"""The deployment that searches: a version's index and texts. Its encoder is another deployment."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from ray import serve
from ray.serve.handle import DeploymentHandle

from retreever.encoding.tokenized_texts import TextKind
from retreever.service.encoder.text_router import RoutedTexts
from retreever.service.replicas.deployment_options import DEPLOYMENT_OPTIONS
from retreever.service.replicas.remote_version import REPLICA_LOST_ERRORS, RETRIEVER_DEPLOYMENT
from retreever.service.version.answers import RequestHandler
from retreever.service.version.engine import Engine


@serve.deployment(name=RETRIEVER_DEPLOYMENT, **DEPLOYMENT_OPTIONS)
class RetrieverReplica(Engine):
    """An engine whose texts are routed in another process.

    Index and texts are memory-mapped, so the replicas of a node share what they read. A replica starts warm.
    """

    def __init__(self, folder: str, version: str, threads: int, encoder: DeploymentHandle):
        self._encoder = encoder
        super().__init__(RequestHandler.open(Path(folder), version, threads), self._route_remotely)

    async def _route_remotely(self, texts: Sequence[str], kind: TextKind) -> RoutedTexts:
        try:
            return await self._encoder.route.remote(texts, kind)
        except REPLICA_LOST_ERRORS:  # another encoder gives the same answer
            return await self._encoder.route.remote(texts, kind)

    async def check_health(self) -> None:
        """Search once; Serve replaces a replica that fails."""
        await asyncio.to_thread(self.handler.check_search)

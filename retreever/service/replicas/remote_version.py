"""A version that runs in Ray's processes, asked from another one."""

from collections.abc import Sequence
from typing import Any

import grpc
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from retreever.data.dataset import Passage
from retreever.service.controller.bundle_changes import Changes
from retreever.service.refusal import Refused
from retreever.service.schema import EmbedRequest, SearchRequest
from retreever.service.version.answers import Answer
from retreever.service.version.engine import Look

RETRIEVER = "Retriever"
LOST = (RayError, RayServeException, grpc.RpcError)  # what a call raises when a replica is lost
TRIES = 2  # what only reads is asked again of another replica when one is lost


class RemoteEngine:
    """The retriever of an application."""

    def __init__(self, app: str):
        self._handle = serve.get_deployment_handle(RETRIEVER, app_name=app)

    async def search(self, asked: list[SearchRequest]) -> list[Answer | Exception]:
        """Answers to requests that came together."""
        return await self._ask("search", asked)

    async def embed(self, asked: EmbedRequest) -> bytes | Refused:
        """Texts as probabilities of a level, in JSON."""
        return await self._ask("embed", asked)

    async def look(self, what: Look, *arguments: Any) -> bytes | Refused:
        """The tree, a node, or documents, in JSON."""
        return await self._ask("look", what, *arguments)

    async def total(self) -> int:
        """How many passages there are."""
        return await self._ask("total")

    async def add(self, passages: Sequence[Passage]) -> bytes | Refused:
        """Add passages; on disk when it returns."""
        return await self._ask("add", passages, tries=1)

    async def delete(self, ids: Sequence[str]) -> bytes | Refused:
        """Delete passages; on disk when it returns."""
        return await self._ask("delete", ids, tries=1)

    async def catch_up(self, wanted: Changes) -> int:
        """Change it as another version was changed."""
        return await self._ask("catch_up", wanted)

    async def _ask(self, method: str, *arguments: Any, tries: int = TRIES) -> Any:
        for left in reversed(range(tries)):
            try:
                return await getattr(self._handle, method).remote(*arguments)
            except LOST as error:
                if not left:
                    words = str(error).strip().splitlines()
                    raise Refused(503, f"a replica was lost: {words[-1] if words else error!r}", 1) from None
        raise AssertionError("unreachable")

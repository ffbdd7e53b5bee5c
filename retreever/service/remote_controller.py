"""Calls to the controller's process. A lost controller becomes a refusal; what the methods do is not known here."""

from collections.abc import Sequence, Set
from typing import Any

import grpc
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from retreever.data.dataset import Passage
from retreever.service.contract import Reply
from retreever.service.controller.version_table import VersionTable
from retreever.service.refusal import RefusalError

LOST_REPLICA_ERRORS = (RayError, RayServeException, grpc.RpcError)  # what a call raises when a replica is lost


class RemoteController:
    """The controller, as a replica calls it through Ray Serve."""

    def __init__(self, handle: DeploymentHandle):
        self._handle = handle

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return await getattr(self._handle, method).remote(*arguments)
        except LOST_REPLICA_ERRORS as error:  # not called again: a lost controller may have made the change
            lines = str(error).strip().splitlines()
            return RefusalError(503, f"the controller was lost: {lines[-1] if lines else error!r}", retry_after=1)

    async def sync(self, replica: str, copies: Set[str]) -> VersionTable:
        """Fetch which versions serve, as `Controller.sync` says.

        Raises:
            RefusalError: the controller is lost.
        """
        table = await self._call("sync", replica, copies)
        if isinstance(table, RefusalError):
            raise table
        return table

    async def add(self, passages: Sequence[Passage]) -> Reply:
        """Add passages."""
        return await self._call("add", passages)

    async def delete(self, ids: Sequence[str]) -> Reply:
        """Delete passages."""
        return await self._call("delete", ids)

    async def reload(self) -> RefusalError | None:
        """Look for another version to serve; wait until it serves or has failed to load."""
        return await self._call("reload")

"""Calls to the processes of Ray Serve. A lost replica becomes a refusal; what the methods do is not known here."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import grpc
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from retreever.service.contract import Version
from retreever.service.refusal import RefusalError

RETRIEVER_DEPLOYMENT = "Retriever"
REPLICA_LOST_ERRORS = (RayError, RayServeException, grpc.RpcError)  # what a call raises when a replica is lost
WRITE_METHODS = ("add", "delete")  # called once: a lost replica may have made the change
READ_ATTEMPTS = 2  # everything else is called again on another replica


class RemoteCaller:
    """Every method of a deployment, as a coroutine function of the same name."""

    def __init__(self, handle: DeploymentHandle):
        self._handle = handle

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        if method.startswith("_"):
            raise AttributeError(method)
        return partial(self._call, method)

    async def _call(self, method: str, *arguments: Any) -> Any:
        attempts = 1 if method in WRITE_METHODS else READ_ATTEMPTS
        while True:
            attempts -= 1
            try:
                return await getattr(self._handle, method).remote(*arguments)
            except REPLICA_LOST_ERRORS as error:
                if not attempts:
                    lines = str(error).strip().splitlines()
                    raise RefusalError(503, f"a replica was lost: {lines[-1] if lines else error!r}", 1) from None


def connect_version(app: str) -> Version:
    """Connect to the version that runs as this application."""
    return cast("Version", RemoteCaller(serve.get_deployment_handle(RETRIEVER_DEPLOYMENT, app_name=app)))

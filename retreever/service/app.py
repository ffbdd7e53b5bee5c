"""The Ray Serve application: the ingress, which answers HTTP, and the keeper, which brings versions up beside it.

    caller -> Ingress -> Retriever (index, texts) -> Encoder (transformer, tree)      one such pair for every version
                  \\-> Keeper: follows the alias, hands over, is the only one to change the corpus

`build` is what `serve run` and `serve deploy` import; `start` runs it in this cluster.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Coroutine, Sequence
from contextvars import Context
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import httpx
from fastapi import FastAPI
from ray import serve
from ray.serve.config import BackpressureConfig
from ray.serve.handle import DeploymentHandle

from retreever.data.dataset import Passage
from retreever.errors import RetreeverError
from retreever.service.controller.controller import Keeper, Serving, Table, Wanted
from retreever.service.encoder.text_router import WARM_UP
from retreever.service.gateway import Front, Live
from retreever.service.http.http_api import make_api
from retreever.service.http.prometheus_metrics import Metrics, merged
from retreever.service.refusal import Refused
from retreever.service.replicas.deployment_options import SERVICE
from retreever.service.replicas.remote_version import RemoteEngine
from retreever.service.replicas.version_starter import QUIET, RayStarter
from retreever.service.schema import SearchRequest
from retreever.service.settings import AppArguments
from retreever.system.workspace import Workspace

T = TypeVar("T")
APPLICATION = "retreever"
TOKEN = "RETREEVER_WRITE_TOKEN"
NOTICE_S = 0.5  # after which an ingress has noticed another version
DRAIN_S = 5  # after which the version before is ended
SILENT_S = 30  # after which the figures of an ingress are dropped


@serve.deployment(name="Keeper", num_replicas=1, ray_actor_options={"num_cpus": 0}, **SERVICE)
class KeeperReplica:
    """The one process that decides which versions serve and changes the corpus."""

    def __init__(self, arguments: dict[str, Any]):
        settings = AppArguments(**arguments)
        wanted = Wanted(settings.model, settings.canary, settings.canary_share if settings.canary else 0.0)
        self._keeper = Keeper(wanted, Workspace.at(Path(settings.workspace)), RayStarter(settings), DRAIN_S)
        self._poll_s = settings.poll_s
        self._figures: dict[str, tuple[float, str]] = {}
        self._polling: asyncio.Task[None] | None = None

    async def _poll(self) -> None:
        while True:
            await self._keeper.check()
            await asyncio.sleep(self._poll_s)

    async def table(self, ingress: str, figures: str) -> Table:
        """What serves; the caller leaves its figures."""
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll(), context=Context())
        self._figures[ingress] = time.monotonic(), figures
        return self._keeper.table

    async def figures(self, ingress: str, figures: str) -> str:
        """The figures of all ingresses as Prometheus reads them."""
        await self.table(ingress, figures)
        fresh = time.monotonic() - SILENT_S
        return merged({name: text for name, (since, text) in self._figures.items() if since > fresh})

    async def reload(self) -> None:
        """See whether other versions are to serve, and wait until they do or have failed to."""
        await _to_its_end(self._keeper.check(force=True))

    async def add(self, passages: Sequence[Passage]) -> bytes | Refused:
        """Add passages."""
        return await _to_its_end(self._keeper.add(passages))

    async def delete(self, ids: Sequence[str]) -> bytes | Refused:
        """Delete passages."""
        return await _to_its_end(self._keeper.delete(ids))


async def _to_its_end(call: Coroutine[Any, Any, T]) -> T | Refused:
    """What a call returns, or its refusal. It goes on where the caller leaves: a change is made whole or not at all."""
    try:
        return await asyncio.shield(asyncio.create_task(call, context=Context()))
    except Refused as refused:
        return refused


class _RemoteKeeper(RemoteEngine):
    """The keeper, asked from another process."""

    def __init__(self, handle: DeploymentHandle):
        self._handle = handle

    async def reload(self) -> None:
        await self._ask("reload")

    async def table(self, ingress: str, figures: str) -> Table:
        table: Table = await self._ask("table", ingress, figures)
        return table

    async def figures(self, ingress: str, figures: str) -> str:
        return str(await self._ask("figures", ingress, figures))


@serve.deployment(
    name="Ingress",
    ray_actor_options={"num_cpus": 0.125},
    max_queued_requests=256,
    backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
    **(SERVICE | {"max_ongoing_requests": 512}),
)
@serve.ingress()
class Ingress:
    """HTTP in front of the versions."""

    def __init__(self, arguments: dict[str, Any], keeper: DeploymentHandle):
        self._settings = AppArguments(**arguments)
        self._keeper = _RemoteKeeper(keeper)
        self._name = serve.get_replica_context().replica_id.unique_id
        self._front = Front(self._keeper, Metrics(), self._figures, self._look)
        self._seen = Table()
        self._following: asyncio.Task[None] | None = None

    async def __serve_build_asgi_app__(self) -> FastAPI:
        with contextlib.suppress(Refused):  # an ingress that takes another one's place starts with what serves
            await self._look()
        self._following = asyncio.get_running_loop().create_task(self._follow())
        return make_api(self._front, os.environ.get(TOKEN) or None, self._settings.timeout_s)

    async def _figures(self) -> str:
        return await self._keeper.figures(self._name, self._front.metrics.text())

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(Refused):  # while the keeper is replaced, what serves goes on
                await self._look()
            await asyncio.sleep(NOTICE_S)

    async def _look(self) -> None:
        """Take over which versions serve."""
        table = await self._keeper.table(self._name, self._front.metrics.text())
        if table.champion is None and self._seen.champion is not None:
            table = replace(table, champion=self._seen.champion)  # a new keeper that has not looked yet
        self._front.faults = table.faults
        champion = await self._live(table.champion, self._seen.champion, self._front.champion)
        canary = await self._live(table.canary, self._seen.canary, self._front.canary)
        self._front.champion, self._front.canary, self._seen = champion, canary, table

    async def _live(self, new: Serving | None, old: Serving | None, live: Live | None) -> Live | None:
        if new is None:
            return None
        if live is None or old is None or new.app != old.app:
            engine = RemoteEngine(new.app)
            await engine.search([SearchRequest(query=WARM_UP)])  # the way there is known before callers go it
            at_once = self._settings.max_replicas + 1  # each has one, and one is on its way
            return Live(new.info, engine, self._front.metrics, self._settings.waiting, at_once)
        live.info = new.info
        return live


def build(arguments: AppArguments) -> serve.Application:
    """The application for `serve run serve.app:build model=FOLDER` and for Serve configurations."""
    values = arguments.model_dump()
    ingress = Ingress.options(num_replicas=arguments.ingress_replicas)  # type: ignore[attr-defined]
    application: serve.Application = ingress.bind(values, KeeperReplica.bind(values))  # type: ignore[attr-defined]
    return application


def start(arguments: AppArguments, *, host: str = "127.0.0.1", port: int = 8000) -> str:
    """Serve in the Ray cluster that this process has joined; returns the service's address once it answers searches.

    Raises:
        RetreeverError: the version asked for does not load; the message says why.
    """
    serve.start(http_options={"host": host, "port": port, "request_timeout_s": 8 * arguments.timeout_s})
    serve.run(build(arguments), name=APPLICATION, route_prefix="/", blocking=False, logging_config=QUIET)
    shown = "127.0.0.1" if host == "0.0.0.0" else host
    url = f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
    with httpx.Client(base_url=url, timeout=arguments.start_s, trust_env=False) as client:
        while True:
            reply = client.get("/readyz")
            if reply.status_code == 200:
                return url
            fault = reply.json().get("fault") if "json" in reply.headers.get("content-type", "") else None
            if fault:
                serve.delete(APPLICATION)
                raise RetreeverError(fault)
            time.sleep(0.2)

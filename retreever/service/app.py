"""Assembles the Ray Serve application: the ingress, which answers HTTP, and the controller, which starts versions.

    caller -> Ingress -> Retriever (index, texts) -> Encoder (transformer, tree)      one such pair for each version
                  \\-> Controller: follows the alias, hands over; only it changes the corpus

`serve run` and `serve deploy` import `build_application`; `start_service` runs it in the cluster of this process.
"""

import asyncio
import contextlib
import os
import time
from contextvars import Context
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

import httpx
from fastapi import FastAPI
from ray import serve
from ray.serve.config import BackpressureConfig
from ray.serve.handle import DeploymentHandle

from retreever.errors import RetreeverError
from retreever.service.contract import ControlPlane
from retreever.service.controller.controller import Controller
from retreever.service.controller.version_table import DesiredVersions, ServingVersion, VersionTable
from retreever.service.encoder.text_router import WARM_UP_TEXT
from retreever.service.gateway import Gateway, LiveVersion
from retreever.service.http.http_api import make_api
from retreever.service.http.prometheus_metrics import ServiceMetrics, merge_metrics
from retreever.service.refusal import RefusalError
from retreever.service.replicas.deployment_options import DEPLOYMENT_OPTIONS
from retreever.service.replicas.remote_version import RemoteCaller, connect_version
from retreever.service.replicas.version_starter import QUIET_LOGGING, RayStarter
from retreever.service.schema import SearchRequest
from retreever.service.settings import ServiceSettings
from retreever.system.workspace import Workspace

APPLICATION_NAME = "retreever"
WRITE_TOKEN_VARIABLE = "RETREEVER_WRITE_TOKEN"
CONTROLLER_POLL_S = 0.5  # seconds between an ingress's looks at which versions serve
DRAIN_S = 5  # seconds that a replaced version still runs
METRICS_EXPIRY_S = 30  # seconds after which the metrics of a silent ingress are dropped


@serve.deployment(name="Controller", num_replicas=1, ray_actor_options={"num_cpus": 0}, **DEPLOYMENT_OPTIONS)
class ControllerReplica(Controller):
    """The controller in a process of its own, with the metrics of all ingresses."""

    def __init__(self, arguments: dict[str, Any]):
        settings = ServiceSettings(**arguments)
        desired = DesiredVersions(settings.model, settings.canary, settings.canary_share if settings.canary else 0.0)
        super().__init__(desired, Workspace.at(Path(settings.workspace)), RayStarter(settings), DRAIN_S)
        self._poll_s = settings.poll_s
        self._ingress_metrics: dict[str, tuple[float, str]] = {}
        self._poll_task: asyncio.Task[None] | None = None

    async def _poll_versions(self) -> None:
        while True:
            await self.reconcile()
            await asyncio.sleep(self._poll_s)

    async def sync_ingress(self, ingress: str, metrics: str) -> VersionTable:
        """Tell an ingress which versions serve, and store its metrics. The first call starts the polling of aliases."""
        if self._poll_task is None:
            self._poll_task = asyncio.create_task(self._poll_versions(), context=Context())
        self._ingress_metrics[ingress] = time.monotonic(), metrics
        return self.table

    async def collect_metrics(self, ingress: str, metrics: str) -> str:
        """Join the metrics of all ingresses, in Prometheus' text format."""
        await self.sync_ingress(ingress, metrics)
        oldest = time.monotonic() - METRICS_EXPIRY_S
        return merge_metrics(
            {name: text for name, (sent_at, text) in self._ingress_metrics.items() if sent_at > oldest}
        )


class ControllerClient(ControlPlane, Protocol):
    """The controller, as an ingress calls it."""

    async def sync_ingress(self, ingress: str, metrics: str) -> VersionTable:
        """See `ControllerReplica`."""

    async def collect_metrics(self, ingress: str, metrics: str) -> str:
        """See `ControllerReplica`."""


@serve.deployment(
    name="Ingress",
    ray_actor_options={"num_cpus": 0.125},
    max_queued_requests=256,
    backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
    **(DEPLOYMENT_OPTIONS | {"max_ongoing_requests": 512}),
)
@serve.ingress()
class Ingress:
    """A gateway and its HTTP interface in a process of their own."""

    def __init__(self, arguments: dict[str, Any], controller: DeploymentHandle):
        self._settings = ServiceSettings(**arguments)
        self._controller = cast("ControllerClient", RemoteCaller(controller))
        self._name = serve.get_replica_context().replica_id.unique_id
        self._gateway = Gateway(self._controller, ServiceMetrics(), self._collect_metrics, self._update_versions)
        self._table = VersionTable()
        self._poll_task: asyncio.Task[None] | None = None

    async def __serve_build_asgi_app__(self) -> FastAPI:
        with contextlib.suppress(RefusalError):  # a replacement serves from its first request on
            await self._update_versions()
        self._poll_task = asyncio.get_running_loop().create_task(self._poll_controller())
        return make_api(self._gateway, os.environ.get(WRITE_TOKEN_VARIABLE) or None, self._settings.timeout_s)

    async def _collect_metrics(self) -> str:
        return await self._controller.collect_metrics(self._name, self._gateway.metrics.render_text())

    async def _poll_controller(self) -> None:
        while True:
            with contextlib.suppress(RefusalError):  # while the controller is replaced, versions keep serving
                await self._update_versions()
            await asyncio.sleep(CONTROLLER_POLL_S)

    async def _update_versions(self) -> None:
        """Fetch which versions serve, and connect to new ones."""
        table = await self._controller.sync_ingress(self._name, self._gateway.metrics.render_text())
        if table.champion is None and self._table.champion is not None:
            table = replace(table, champion=self._table.champion)  # a new controller that has not looked yet
        self._gateway.faults = table.faults
        champion = await self._connect_version(table.champion, self._table.champion, self._gateway.champion)
        canary = await self._connect_version(table.canary, self._table.canary, self._gateway.canary)
        self._gateway.champion, self._gateway.canary, self._table = champion, canary, table

    async def _connect_version(
        self, new: ServingVersion | None, old: ServingVersion | None, current: LiveVersion | None
    ) -> LiveVersion | None:
        if new is None:
            return None
        if current is None or old is None or new.app != old.app:
            version = connect_version(new.app)
            await version.search([SearchRequest(query=WARM_UP_TEXT)])  # opens the connection before callers need it
            max_concurrent = self._settings.max_replicas + 1  # a batch for each replica, and one on its way
            return LiveVersion(new.info, version, self._gateway.metrics, self._settings.waiting, max_concurrent)
        current.info = new.info
        return current


def build_application(arguments: ServiceSettings) -> serve.Application:
    """Build the application, as for `serve run serve.app:build model=FOLDER` and Serve configurations."""
    values = arguments.model_dump()
    ingress = Ingress.options(num_replicas=arguments.ingress_replicas)  # type: ignore[attr-defined]
    application: serve.Application = ingress.bind(values, ControllerReplica.bind(values))  # type: ignore[attr-defined]
    return application


def start_service(arguments: ServiceSettings, *, host: str = "127.0.0.1", port: int = 8000) -> str:
    """Serve in the Ray cluster that this process has joined; return the address once it answers searches.

    Raises:
        RetreeverError: the desired version does not load; the message says why.
    """
    serve.start(http_options={"host": host, "port": port, "request_timeout_s": 8 * arguments.timeout_s})
    serve.run(
        build_application(arguments),
        name=APPLICATION_NAME,
        route_prefix="/",
        blocking=False,
        logging_config=QUIET_LOGGING,
    )
    public_host = "127.0.0.1" if host == "0.0.0.0" else host
    url = f"http://[{public_host}]:{port}" if ":" in public_host else f"http://{public_host}:{port}"
    with httpx.Client(base_url=url, timeout=arguments.start_s, trust_env=False) as client:
        while True:
            reply = client.get("/readyz")
            if reply.status_code == 200:
                return url
            fault = reply.json().get("fault") if "json" in reply.headers.get("content-type", "") else None
            if fault:
                serve.delete(APPLICATION_NAME)
                raise RetreeverError(fault)
            time.sleep(0.2)

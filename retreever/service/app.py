"""Assembles the Ray Serve application: replicas that answer HTTP, encode and search, and the controller.

    caller -> Retriever (HTTP, encoder, tree, memory-mapped index)      one to many replicas, all alike
                  \\-> Controller: follows the alias, hands over; only it changes the corpus

`serve run` and `serve deploy` import `build_application`; `run_service.py` runs it on one machine.
"""

import asyncio
import logging
import os
import random
import sys
import time
import warnings
from collections.abc import Set
from contextvars import Context
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.handle import DeploymentHandle

from retreever.bundle.text_router import prepare_exports_apart
from retreever.service.contract import SearchAnswer
from retreever.service.controller.controller import Controller
from retreever.service.controller.version_table import DesiredVersions, VersionTable
from retreever.service.gateway import Gateway
from retreever.service.http.http_api import RecordFunction, make_api
from retreever.service.http.own_requests import OwnRequests
from retreever.service.http.service_metrics import ServiceMetrics
from retreever.service.remote_controller import RemoteController
from retreever.service.schema import SearchRequest
from retreever.service.settings import ServiceSettings
from retreever.service.version.engine import Engine
from retreever.service.version_follower import VersionFollower
from retreever.system.workspace import Workspace

WRITE_TOKEN_VARIABLE = "RETREEVER_WRITE_TOKEN"
SWITCH_S = 0.0005  # seconds that a thread which writes answers may keep the event loop waiting; Python's default: 0.005
FOLLOW_S = 0.5  # seconds between a replica's looks at which versions serve
DEPLOYMENT_OPTIONS: dict[str, Any] = {
    "health_check_period_s": 3,
    "health_check_timeout_s": 30,
    "graceful_shutdown_wait_loop_s": 0.5,
    "graceful_shutdown_timeout_s": 45,  # longer than a search may take
    "max_surge_percent": 100,
}
_log = logging.getLogger(__name__)


@serve.deployment(name="Controller", num_replicas=1, ray_actor_options={"num_cpus": 0}, **DEPLOYMENT_OPTIONS)
class ControllerReplica(Controller):
    """The controller in a process of its own."""

    def __init__(self, arguments: dict[str, Any]):
        settings = ServiceSettings(**arguments)
        desired = DesiredVersions(settings.model, settings.canary, settings.canary_share if settings.canary else 0.0)
        place = Workspace.at(Path(settings.workspace))
        super().__init__(desired, place, partial(_prepare_and_open, place.exports))
        self._poll_s = settings.poll_s
        self._polling: asyncio.Task[None] | None = None

    async def sync(self, replica: str, copies: Set[str]) -> VersionTable:
        """See `Controller`; the first call starts the polling of aliases."""
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll_versions(), context=Context())
        return await super().sync(replica, copies)

    async def _poll_versions(self) -> None:
        while True:
            await self.reconcile()
            await self.retire_unused()
            await asyncio.sleep(self._poll_s)


def _prepare_and_open(exports: Path, folder: Path, version: str) -> Engine:
    """Open a version for writing; what all processes need for it is made first, in one that ends: it takes torch."""
    prepare_exports_apart(folder, exports)
    return Engine.open(folder, version, exports)


@serve.deployment(
    name="Retriever",
    max_ongoing_requests=256,
    max_queued_requests=256,
    backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
    **DEPLOYMENT_OPTIONS,
)
@serve.ingress()
class RetrieverReplica:
    """A gateway, its HTTP interface and the versions that it asks, in one process."""

    def __init__(self, arguments: dict[str, Any], controller: DeploymentHandle):
        self._settings = ServiceSettings(**arguments)
        sys.setswitchinterval(SWITCH_S)
        remote, name = RemoteController(controller), serve.get_replica_context().replica_id.unique_id
        self._gateway = Gateway(remote, ServiceMetrics(), self._settings.waiting, self._update_versions)
        open_version = partial(
            Engine.open,
            exports=Workspace.at(Path(self._settings.workspace)).exports,
            threads=self._settings.threads_each,
            device=self._settings.device,
        )
        self._follower = VersionFollower(self._gateway, partial(remote.sync, name), open_version)
        self._following: asyncio.Task[None] | None = None

    async def __serve_build_asgi_app__(self) -> FastAPI:
        await self._try_update()  # a replacement serves from its first request on
        self._following = asyncio.get_running_loop().create_task(self._follow_controller())
        token, record = os.environ.get(WRITE_TOKEN_VARIABLE) or None, self._make_recorder()
        api = make_api(self._gateway, token, self._settings.timeout_s, record_search=record)
        api.add_middleware(OwnRequests, application=serve.get_replica_context().app_name)
        return api

    def _make_recorder(self) -> RecordFunction | None:
        """Make the function that sends a share of the searches to MLflow; None where that share is 0."""
        if not self._settings.trace_share:
            return None
        from retreever.tracking.search_traces import SearchTrace, SearchTracer  # mlflow takes a second to import

        tracer = SearchTracer(Workspace.at(Path(self._settings.workspace)))

        def record(asked: SearchRequest, answer: SearchAnswer, trace_id: str) -> None:
            if random.random() < self._settings.trace_share:
                stages, ids = answer.stages, answer.ids
                tracer.record(
                    SearchTrace(asked.texts, ids, answer.version, answer.level, stages, trace_id, time.time())
                )

        return record

    async def _update_versions(self) -> None:
        await self._follower.update()

    async def _try_update(self) -> None:
        try:
            await self._follower.update()
        except Exception as error:  # of the controller or of files: what served before goes on serving
            _log.warning("the versions that serve cannot be followed: %s", error)

    async def _follow_controller(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_S)
            await self._try_update()


def build_application(arguments: ServiceSettings) -> serve.Application:
    """Build the application, as for `serve run serve.app:build model=FOLDER` and Serve configurations."""
    with warnings.catch_warnings():
        # of metrics_interval_s, which still bounds look_back_period_s
        warnings.simplefilter("ignore", DeprecationWarning)
        autoscaling = AutoscalingConfig(
            min_replicas=arguments.min_replicas,
            max_replicas=arguments.max_replicas,
            target_ongoing_requests=8,
            upscale_delay_s=0.5,
            downscale_delay_s=20,
            look_back_period_s=1,
            metrics_interval_s=0.5,
        )
    replicas = RetrieverReplica.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": arguments.replica_cpus, "num_gpus": arguments.replica_gpus},
        autoscaling_config=autoscaling,
    )
    values = arguments.model_dump()
    application: serve.Application = replicas.bind(values, ControllerReplica.bind(values))  # type: ignore[attr-defined]
    return application

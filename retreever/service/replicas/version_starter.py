"""Versions as applications of Ray Serve: an encoder and a retriever each, without a route of their own."""

import asyncio
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import LoggingConfig

from retreever.service.replicas.encoder_replica import Encoder
from retreever.service.replicas.remote_version import RemoteEngine
from retreever.service.replicas.retriever_replica import Retriever
from retreever.service.settings import AppArguments

PREFIX = "retreever-"
A_QUARTER = 0.25  # of a GPU: two versions, two encoders each
QUIET = LoggingConfig(enable_access_log=False)


class RayStarter:
    """Starts versions in the cluster that this process belongs to."""

    def __init__(self, settings: AppArguments):
        self._settings = settings

    async def start(self, app: str, folder: Path, version: str) -> None:
        """Bring a version up.

        Raises:
            RuntimeError: it does not come up in time, with the reason; nothing of it is left then.
        """
        deploying = asyncio.create_task(asyncio.to_thread(self._run, app, folder, version))
        done, _ = await asyncio.wait({deploying}, timeout=self._settings.start_s)
        if done and deploying.exception() is None:
            return
        await self.stop(app)
        if not done:
            deploying.add_done_callback(lambda task: task.exception())
            raise RuntimeError(f"not up within {self._settings.start_s:g} s; are there CPUs or GPUs left for it?")
        raise RuntimeError(_reason(str(deploying.exception())))

    def _run(self, app: str, folder: Path, version: str) -> None:
        serve.run(version_app(self._settings, folder, version), name=app, route_prefix=None, logging_config=QUIET)

    async def stop(self, app: str) -> None:
        """End a version when what it was asked is answered."""
        await asyncio.to_thread(serve.delete, app)

    async def running(self) -> list[str]:
        """Versions that are up."""
        status = await asyncio.to_thread(serve.status)
        return [
            name for name, app in status.applications.items() if name.startswith(PREFIX) and app.status == "RUNNING"
        ]

    def engine(self, app: str) -> RemoteEngine:
        """A version to ask."""
        return RemoteEngine(app)


def version_app(settings: AppArguments, folder: Path, version: str) -> serve.Application:
    """The application of one version."""
    gpus = settings.encoder_gpus
    if gpus is None:
        gpus = A_QUARTER if ray.cluster_resources().get("GPU") else 0
    encoder = Encoder.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": settings.encoder_cpus, "num_gpus": gpus}, **_replicas(settings, delay_s=0.5)
    )
    # A search waits for the encoder, so both look busy; the encoder mostly is, and its second replica comes first.
    retriever = Retriever.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": settings.retriever_cpus}, **_replicas(settings, delay_s=10)
    )
    bound = encoder.bind(str(folder), settings.threads_each, gpus > 0)
    application: serve.Application = retriever.bind(str(folder), version, settings.threads_each, bound)
    return application


def _replicas(settings: AppArguments, delay_s: float) -> dict[str, Any]:
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=settings.min_replicas,
            max_replicas=settings.max_replicas,
            target_ongoing_requests=1.25,  # batches under way: one caller has one, many have one more than replicas
            upscale_delay_s=delay_s,
            downscale_delay_s=20,
            look_back_period_s=1,
            metrics_interval_s=0.5,  # deprecated, but what callers of a deployment push by: 10 s if left out
        ),
        "max_constructor_retry_count": 2,
    }


def _reason(words: str) -> str:
    """The error in what Serve says of a replica that does not start: traceback and all."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    errors = [line for line in lines if "Error: " in line or "Error(" in line]
    return (errors or lines or ["unknown"])[-1]

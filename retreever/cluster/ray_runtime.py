"""Join a Ray cluster, or start one on this machine. What runs on it is not known here."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from retreever.system import environment
from retreever.system.ports import find_free_ports
from retreever.system.workspace import Workspace

DRIVER_RESOURCE = "train_driver"
"""Resource of a trial that starts its own Ray Train run, since Tune cannot schedule a trial that needs no CPU."""
FIRST_PORT_VARIABLE, LAST_PORT_VARIABLE = (
    "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT",
    "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT",
)
SERVING_VARIABLES = {
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",  # replicas answer HTTP themselves, without Serve's proxy
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",  # until a replica that ends takes no more; default 30 s
    "RAY_SERVE_PORT_QUARANTINE_S": "0",  # the port of a lost replica is its successor's; default 150 s
    "RAY_worker_niceness": "0",  # Ray's default, 15, suits work that nobody waits for
}


@contextmanager
def join_cluster(
    workspace: Workspace, *, dashboard: bool = False, cpus: int | None = None, serving: int = 0
) -> Iterator[None]:
    """Join the cluster at RAY_ADDRESS, or start one on this machine and stop it at the end.

    If this process has initialised Ray already, that Ray is used and keeps running.

    Args:
        dashboard: start Ray's dashboard. Tune needs it when it drives Train: without it the placement groups of
            stopped trials are never released, and the next trials wait forever.
        cpus: CPUs of a cluster started here; all of this machine's by default.
        serving: most replicas of a service that will run on a cluster started here; 0: none will.
    """
    if ray.is_initialized():
        yield
        return
    environment.prepare_environment(workspace)
    joined = "RAY_ADDRESS" in os.environ
    added: dict[str, str] = {}
    if serving and not joined:
        ports = find_free_ports(2 * serving + 2)  # also for replicas that replace others
        own = SERVING_VARIABLES | {FIRST_PORT_VARIABLE: str(ports[0]), LAST_PORT_VARIABLE: str(ports[-1] + 1)}
        added = {name: value for name, value in own.items() if name not in os.environ}
        os.environ.update(added)
    try:
        if joined:
            ray.init(log_to_driver=False, logging_level=logging.WARNING)
        else:
            _start_ray(dashboard, cpus)
        yield
    finally:
        ray.shutdown()
        for name in added:
            os.environ.pop(name, None)


def list_replica_ports() -> list[int]:
    """List the ports at which the replicas of a service answer; none, unless `join_cluster` has started Ray for one."""
    if FIRST_PORT_VARIABLE not in os.environ:
        return []
    return list(range(int(os.environ[FIRST_PORT_VARIABLE]), int(os.environ[LAST_PORT_VARIABLE])))


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

"""A process in reserve for the next encoder of this node.

A replica takes over an idle process of Ray's where one lies ready. One that has loaded an encoder before has torch,
transformers and the model's code in memory, which is most of what a replica waits for, and all the more beside the load
that it was asked for. Ray keeps as many idle processes as the node has CPUs to spare.
"""

from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from serve.routing import Routing


def keep_one(folder: Path) -> None:
    """Have a process of this node load the encoder of a version, then wait for what Ray gives it to do."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    _load.options(scheduling_strategy=here).remote(str(folder))


@ray.remote(num_cpus=0, max_retries=0)
def _load(folder: str) -> None:
    Routing(Path(folder), threads=1)

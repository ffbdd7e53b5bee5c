"""What Ray Serve runs of a version to encode texts.

This process only collects what waits; it starts without torch and transformers, which the process that encodes has from
the one that it is forked from.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray import serve

from retreever.service.encoder.forked_encoder import Forked, LostProcess
from retreever.service.encoder.text_router import WARM_UP, Routed, Routing
from retreever.service.replicas.deployment_options import SERVICE

if TYPE_CHECKING:
    from retreever.encoding.encoder import Kind

LOST_PROCESS = 70  # exit status: Serve starts another replica, and callers ask that one


@serve.deployment(**SERVICE)
class Encoder:
    """Texts to node probabilities; what waits is encoded together. It starts warm."""

    def __init__(self, folder: str, threads: int, gpu: bool):
        device = "cuda" if gpu else "cpu"
        if sys.platform == "linux":
            node = ray.get_runtime_context().get_node_id()
            self._routing = Routing(Forked(Path(folder), threads, device, node[:16]))
        else:  # elsewhere it is not safe to fork what has loaded torch
            from retreever.service.encoder.text_encoder import Encoding

            self._routing = Routing(Encoding(Path(folder), threads, device))

    async def route(self, texts: Sequence[str], kind: "Kind") -> Routed:
        """Route texts."""
        try:
            return await self._routing.route(texts, kind)
        except LostProcess:
            os._exit(LOST_PROCESS)

    async def check_health(self) -> None:
        """A text of our own; Serve replaces a replica that cannot route it."""
        await self.route([WARM_UP], "query")

"""The deployment that encodes: a version's texts to node probabilities.

On Linux this process only batches texts and loads neither torch nor transformers. A process forked from one that has
both in memory encodes them.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray import serve

from retreever.service.encoder.forked_encoder import ForkedEncoder, LostProcessError
from retreever.service.encoder.text_router import WARM_UP_TEXT, EncodeFunction, RoutedTexts, TextRouter
from retreever.service.replicas.deployment_options import DEPLOYMENT_OPTIONS

if TYPE_CHECKING:
    from retreever.encoding.tokenized_texts import TextKind

LOST_PROCESS_STATUS = 70  # exit status; Serve then starts another replica, and callers retry on it


@serve.deployment(name="Encoder", **DEPLOYMENT_OPTIONS)
class EncoderReplica(TextRouter):
    """A router that starts warm, and exits when its encoding process is lost."""

    def __init__(self, folder: str, threads: int, gpu: bool):
        super().__init__(_make_encoder(Path(folder), threads, "cuda" if gpu else "cpu"))

    async def route(self, texts: Sequence[str], kind: "TextKind") -> RoutedTexts:
        """Route texts."""
        try:
            return await super().route(texts, kind)
        except LostProcessError:
            os._exit(LOST_PROCESS_STATUS)

    async def check_health(self) -> None:
        """Route one text; Serve replaces a replica that fails."""
        await self.route([WARM_UP_TEXT], "query")


def _make_encoder(folder: Path, threads: int, device: str) -> EncodeFunction:
    if sys.platform == "linux":
        return ForkedEncoder(folder, threads, device, ray.get_runtime_context().get_node_id()[:16])
    from retreever.service.encoder.text_encoder import TextEncoder  # to fork a process with torch is unsafe elsewhere

    return TextEncoder(folder, threads, device)

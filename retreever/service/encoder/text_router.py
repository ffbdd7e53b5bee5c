"""Many callers' texts to node probabilities: what waits is encoded together. Ray and models are not known here."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from retreever.service.request_batcher import Gather

if TYPE_CHECKING:  # an encoder's replica is to start without torch
    from retreever.encoding.encoder import Kind

LARGEST = 64  # texts encoded at once
WARM_UP = "what is there"


@dataclass(frozen=True)
class Routed:
    """Texts as node probabilities.

    Attributes:
        nodes: float32 (texts, nodes); zeros where there is a fault.
        faults: what is wrong with a text, by its place.
        seconds: that the batch took to encode.
    """

    nodes: np.ndarray
    faults: dict[int, str]
    seconds: float


class Routing:
    """Batches for something that encodes, one at a time.

    Args:
        encode: node probabilities of texts and their faults by place, as of `Routed`. It is called once to warm up.
    """

    def __init__(self, encode: "Callable[[Sequence[str], Kind], tuple[np.ndarray, dict[int, str]]]"):
        self._encode, self._thread = encode, ThreadPoolExecutor(1)
        self._gather: Gather[tuple[Sequence[str], Kind], Routed] = Gather(self._run, LARGEST, 1, 10**9)
        encode([WARM_UP], "query")

    async def route(self, texts: Sequence[str], kind: "Kind") -> Routed:
        """Route texts, together with what others have asked meanwhile."""
        return (await self._gather.ask((texts, kind), len(texts)))[0]

    async def _run(self, batch: "list[tuple[Sequence[str], Kind]]") -> list[Routed | Exception]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._batch, batch)

    def _batch(self, batch: "list[tuple[Sequence[str], Kind]]") -> list[Routed | Exception]:
        begun = time.perf_counter()
        parts: dict[int, tuple[np.ndarray, dict[int, str]]] = {}
        for kind in {kind for _, kind in batch}:
            own = [place for place, asked in enumerate(batch) if asked[1] == kind]
            nodes, faults = self._encode([text for place in own for text in batch[place][0]], kind)
            start = 0
            for place in own:
                end = start + len(batch[place][0])
                parts[place] = nodes[start:end], {n - start: f for n, f in faults.items() if start <= n < end}
                start = end
        took = time.perf_counter() - begun
        return [Routed(*parts[place], took) for place in range(len(batch))]

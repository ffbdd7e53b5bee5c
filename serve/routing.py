"""Texts through encoder and tree, many callers at a time: what waits is encoded together. Ray is not known here."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from retreever.encoder import Encoder, Kind
from retreever.errors import EncoderError
from retreever.retriever import load_model, route_texts
from serve.gather import Gather
from serve.priority import COMPUTES, give_way

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
    """An encoder and a tree; one batch is encoded at a time, with all threads.

    Raises:
        BundleError: the model is missing or damaged.
        EncoderError: the encoder it names cannot be had.
    """

    def __init__(self, folder: Path, threads: int, device: str = "cpu"):
        torch.set_num_threads(threads)
        self._tree, self._config = load_model(folder)
        self._tree.to(device)
        self._encoder = Encoder.load(self._config.encoder, device)
        self._thread = ThreadPoolExecutor(1, initializer=give_way, initargs=(COMPUTES,))
        self._gather: Gather[tuple[Sequence[str], Kind], Routed] = Gather(self._run, LARGEST, 1, 10**9)
        self._nodes([WARM_UP], "query")

    async def route(self, texts: Sequence[str], kind: Kind) -> Routed:
        """Route texts, together with what others have asked meanwhile."""
        return (await self._gather.ask((texts, kind), len(texts)))[0]

    async def _run(self, batch: list[tuple[Sequence[str], Kind]]) -> list[Routed | Exception]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._batch, batch)

    def _batch(self, batch: list[tuple[Sequence[str], Kind]]) -> list[Routed | Exception]:
        begun = time.perf_counter()
        parts: dict[int, tuple[np.ndarray, dict[int, str]]] = {}
        for kind in {kind for _, kind in batch}:
            own = [place for place, asked in enumerate(batch) if asked[1] == kind]
            nodes, faults = self._nodes([text for place in own for text in batch[place][0]], kind)
            start = 0
            for place in own:
                end = start + len(batch[place][0])
                parts[place] = nodes[start:end], {n - start: f for n, f in faults.items() if start <= n < end}
                start = end
        took = time.perf_counter() - begun
        return [Routed(*parts[place], took) for place in range(len(batch))]

    def _nodes(self, texts: Sequence[str], kind: Kind) -> tuple[np.ndarray, dict[int, str]]:
        try:
            return route_texts(self._tree, self._config, self._encoder, texts, kind), {}
        except EncoderError as error:
            if len(texts) == 1:
                return np.zeros((1, self._tree.tree.nodes), np.float32), {0: str(error)}
        alone = [self._nodes([text], kind) for text in texts]  # only the one at fault is refused
        return np.concatenate([nodes for nodes, _ in alone]), {n: f[0] for n, (_, f) in enumerate(alone) if f}

"""Batches the texts of many callers for one encoder. Ray and models are not known here."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from retreever.service.request_batcher import RequestBatcher

if TYPE_CHECKING:  # an encoder replica starts without torch
    from retreever.encoding.tokenized_texts import TextKind

EncodeFunction = Callable[[Sequence[str], "TextKind"], tuple[np.ndarray, dict[int, str]]]  # as `TextEncoder.__call__`
MAX_BATCH_TEXTS = 64  # texts encoded at once
MAX_WAITING_TEXTS = 10**9  # no limit: the ingress limits what waits
WARM_UP_TEXT = "what is there"


@dataclass(frozen=True)
class RoutedTexts:
    """Texts as node probabilities.

    Attributes:
        nodes: float32 (texts, nodes); zeros for a text with a fault.
        faults: faults by place of the text.
        seconds: time that the whole batch took.
    """

    nodes: np.ndarray
    faults: dict[int, str]
    seconds: float


class TextRouter:
    """Joins the texts that wait into batches, and encodes one batch at a time.

    Args:
        encode: returns node probabilities of texts, and faults by place of the text; it is called once to warm up.
    """

    def __init__(self, encode: EncodeFunction):
        self._encode, self._thread = encode, ThreadPoolExecutor(1)
        self._batcher: RequestBatcher[tuple[Sequence[str], TextKind], RoutedTexts] = RequestBatcher(
            self._run_batch, MAX_BATCH_TEXTS, max_concurrent=1, max_waiting=MAX_WAITING_TEXTS
        )
        encode([WARM_UP_TEXT], "query")

    async def route(self, texts: Sequence[str], kind: "TextKind") -> RoutedTexts:
        """Route texts, in one batch with the texts of other callers that wait."""
        return (await self._batcher.submit((texts, kind), len(texts)))[0]

    async def _run_batch(self, batch: "list[tuple[Sequence[str], TextKind]]") -> list[RoutedTexts | Exception]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._route_batch, batch)

    def _route_batch(self, batch: "list[tuple[Sequence[str], TextKind]]") -> list[RoutedTexts | Exception]:
        begun = time.perf_counter()
        parts: dict[int, tuple[np.ndarray, dict[int, str]]] = {}
        for kind in {kind for _, kind in batch}:
            own = [place for place, (_, other) in enumerate(batch) if other == kind]
            nodes, faults = self._encode([text for place in own for text in batch[place][0]], kind)
            start = 0
            for place in own:
                end = start + len(batch[place][0])
                parts[place] = nodes[start:end], {n - start: f for n, f in faults.items() if start <= n < end}
                start = end
        seconds = time.perf_counter() - begun
        return [RoutedTexts(*parts[place], seconds) for place in range(len(batch))]

"""A version in this process: routes texts, then searches, embeds or adds them. Ray and HTTP are not known here.

Everything that computes runs in a thread, so that the event loop goes on taking requests.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from retreever.bundle.retriever import Retreever
from retreever.data.dataset import Passage
from retreever.encoding.tokenized_texts import TextKind
from retreever.errors import BundleError, EncoderError
from retreever.service.contract import ReadMethod, Reply, SearchAnswer
from retreever.service.controller.bundle_changes import BundleChanges
from retreever.service.refusal import RefusalError
from retreever.service.schema import EmbedRequest, SearchRequest
from retreever.service.version.answers import RequestHandler

ADD_BATCH_PASSAGES = 8  # passages routed at a time; searches get their turn in between
CATCH_UP_BATCH_PASSAGES = 64  # passages added at a time
WARM_UP_TEXT = "what is there"


@dataclass(frozen=True)
class RoutedTexts:
    """Texts as the tree and the encoder see them.

    Attributes:
        nodes: probabilities, float32 (texts, nodes); zeros for a text with a fault.
        encodings: of the encoder, float32 (texts, dim).
        faults: faults by place of the text.
    """

    nodes: np.ndarray
    encodings: np.ndarray
    faults: dict[int, str]


class Engine:
    """A loaded bundle that answers the requests of the HTTP interface."""

    def __init__(self, handler: RequestHandler):
        self.handler = handler

    @classmethod
    def open(
        cls, folder: Path, version: str, exports: Path | None = None, threads: int = 1, device: str = "cpu"
    ) -> "Engine":
        """Open a bundle and search it once, so that the first caller does not wait.

        Args:
            version: name of the version, which every answer holds.
            exports: folder of the encoder's exports; the default workspace's where it is None.
            threads: threads of a search and of the encoder.
            device: torch's name of a device, for the encoder.

        Raises:
            BundleError: a file is missing or damaged.
            EncoderError: the encoder that the bundle names does not load.
        """
        engine = cls(RequestHandler(Retreever.load(folder, device, threads=threads, exports=exports), version, threads))
        engine.answer([SearchRequest(query=WARM_UP_TEXT)])
        return engine

    def answer(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer | Exception]:
        """Answer a batch of requests, one answer or exception each, in order."""
        begun = time.perf_counter()
        routed = self._route([text for one in requests for text in one.texts], "query")
        encode = {"encode": time.perf_counter() - begun}
        starts = np.cumsum([0] + [len(one.texts) for one in requests])
        parts = [(routed.nodes[start:end], routed.encodings[start:end]) for start, end in pairwise(starts)]
        found = self.handler.search(requests, parts)
        for number, fault in routed.faults.items():
            found[int(np.searchsorted(starts, number, side="right")) - 1] = RefusalError.for_field("query", fault)
        return [replace(one, stages=encode | one.stages) if isinstance(one, SearchAnswer) else one for one in found]

    def _route(self, texts: Sequence[str], kind: TextKind) -> RoutedTexts:
        retreever = self.handler.retreever
        try:
            return RoutedTexts(*retreever.encode_and_route(texts, kind), {})
        except EncoderError as error:
            if len(texts) == 1:
                nothing = np.zeros((1, retreever.tree.nodes), np.float32)
                return RoutedTexts(nothing, nothing[:, :0], {0: str(error)})
        singles = [self._route([text], kind) for text in texts]  # one by one, so that only the text at fault is refused
        faults = {place: one.faults[0] for place, one in enumerate(singles) if one.faults}
        width = max(one.encodings.shape[1] for one in singles)
        encodings = np.zeros((len(singles), width), np.float32)
        for row, one in zip(encodings, singles, strict=True):
            row[: one.encodings.shape[1]] = one.encodings
        return RoutedTexts(np.concatenate([one.nodes for one in singles]), encodings, faults)

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchAnswer | Exception]:
        """Answer a batch of requests, as `answer` does."""
        return await asyncio.to_thread(self.answer, requests)

    async def embed(self, request: EmbedRequest) -> Reply:
        """Embed texts as node probabilities of a level."""
        routed = await asyncio.to_thread(self._route, request.texts, request.kind)
        if routed.faults:
            return RefusalError.for_field("texts", next(iter(routed.faults.values())))
        return await _serialize_reply(self.handler.make_embeddings, routed.nodes, request.level)

    async def read(self, method: ReadMethod, *arguments: Any) -> Reply:
        """Read the tree, a node, or documents."""
        return await _serialize_reply(getattr(self.handler, method), *arguments)

    async def add(self, passages: Sequence[Passage]) -> Reply:
        """Add passages; they are on disk, and the next search finds them, when this returns."""
        parts = []
        for start in range(0, len(passages), ADD_BATCH_PASSAGES):
            texts = [passage.full_text for passage in passages[start : start + ADD_BATCH_PASSAGES]]
            routed = await asyncio.to_thread(self._route, texts, "passage")
            if routed.faults:
                return RefusalError.for_field("documents", next(iter(routed.faults.values())))
            parts.append((routed.nodes, routed.encodings))
        return await _serialize_reply(self.handler.add, passages, *map(np.concatenate, zip(*parts, strict=True)))

    async def delete(self, ids: Sequence[str]) -> Reply:
        """Delete passages; the change is on disk, and no search finds them, when this returns."""
        return await _serialize_reply(self.handler.delete, ids)

    async def catch_up(self, wanted: BundleChanges) -> None:
        """Make the changes that another version has.

        Raises:
            RefusalError: a passage cannot be added.
        """
        missing = await asyncio.to_thread(self.handler.find_missing_changes, wanted)
        if missing.deleted:
            _raise_refusal(await self.delete(sorted(missing.deleted)))
        passages = list(missing.added.values())
        for start in range(0, len(passages), CATCH_UP_BATCH_PASSAGES):
            _raise_refusal(await self.add(passages[start : start + CATCH_UP_BATCH_PASSAGES]))


def _raise_refusal(reply: Reply) -> None:
    if isinstance(reply, RefusalError):
        raise reply


async def _serialize_reply(call: Callable[..., BaseModel], *arguments: Any) -> Reply:
    try:
        return (await asyncio.to_thread(call, *arguments)).model_dump_json().encode()
    except RefusalError as refused:
        return refused
    except BundleError as error:
        return RefusalError(503, str(error), retry_after=1)

"""What a loaded bundle answers, in the words of the interface. HTTP, Ray and encoders are not known here.

Every call first takes over what another process has changed in the bundle's folder.
"""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from retreever.bundle.retriever import Retreever
from retreever.bundle.tree_view import NodeView, TreeView, explain, flow_of, node_view, tree_view
from retreever.data.dataset import Passage
from retreever.index.tree_index import Where
from retreever.model.tree import Tree
from retreever.service.controller.bundle_changes import Changes, base
from retreever.service.refusal import Refused
from retreever.service.schema import (
    Changed,
    DocumentHeld,
    DocumentPage,
    EmbedResponse,
    Found,
    ManyResponse,
    ModelInfo,
    PassageFound,
    SearchRequest,
    SearchResponse,
)
from retreever.service.version.metadata_filter import Fields

RECENT = 0.2  # weight of the newest search in the time that a level takes


@dataclass(frozen=True)
class Answer:
    """An answer in JSON, and what it took.

    Attributes:
        level: that was searched.
        ids: found for the first query, best first.
        stages: seconds by stage.
    """

    body: bytes
    level: int
    ids: list[str]
    stages: dict[str, float]


class Answers:
    """A bundle that answers.

    Args:
        retreever: with or without its encoder.
        version: the name that every answer bears.
        threads: queries searched at a time.
    """

    def __init__(self, retreever: Retreever, version: str, threads: int = 1):
        self.retreever, self._fields = retreever, Fields(retreever.documents)
        config = retreever.config
        self.model = ModelInfo(
            version=version,
            digest=retreever.digest[:16],
            depth=config.tree.depth,
            similarity=config.loss.similarity,
            encoder=config.encoder.name,
        )
        self._threads, self._pool = threads, ThreadPoolExecutor(threads)
        self._filtering = threading.Lock()
        self._took = [0.0] * (config.tree.depth + 1)
        self._levels = retreever.index.layout.levels
        for level in self._levels:
            self._took[level] = self._timed(level)

    @classmethod
    def open(cls, folder: Path, version: str, threads: int = 1) -> "Answers":
        """Open a bundle without its encoder.

        Raises:
            BundleError: a file is missing or damaged.
        """
        return cls(Retreever.load(folder, encoder=False), version, threads)

    def _timed(self, level: int) -> float:
        nodes = self.even()
        begun = time.perf_counter()
        self.retreever.index.search(nodes, 10, level)
        return time.perf_counter() - begun

    def even(self) -> np.ndarray:
        """A query that goes everywhere alike, as node probabilities."""
        depth = self.model.depth
        return np.concatenate([np.full(2**d, 0.5**d, np.float32) for d in range(depth + 1)])[None]

    def check(self) -> None:
        """A search of our own.

        Raises:
            Exception: the index does not answer.
        """
        self.retreever.index.search(self.even(), 1)

    def search(self, asked: Sequence[SearchRequest], nodes: Sequence[np.ndarray]) -> list[Answer | Exception]:
        """Answers to requests, of which the queries are routed: `nodes`, (queries, nodes) for each."""
        self.retreever.index.refresh()
        threads = max(1, self._threads // len(asked)) if asked else 1  # a request of many queries may have them all
        side_by_side = self._pool.map if len(asked) > 1 else map
        return list(side_by_side(partial(self._searched, threads=threads), asked, nodes))

    def _searched(self, asked: SearchRequest, nodes: np.ndarray, threads: int) -> Answer | Exception:
        begun = time.perf_counter()
        try:
            level = self.level(asked)
            found = self._found(asked, nodes, level, threads)
        except ValueError as error:
            return Refused(422, str(error))
        except Exception as error:  # of this request; the others of the batch go on
            return error
        took = time.perf_counter() - begun
        self._took[level] += RECENT * (took / len(nodes) - self._took[level])
        told = {"level": level, "took_ms": round(took * 1000, 3), "model": self.model}
        reply: SearchResponse | ManyResponse
        if asked.queries is None:
            reply = SearchResponse(**dict(found[0]), **told)
        else:
            reply = ManyResponse(results=found, **told)
        ids = [hit.id for hit in found[0].hits]
        body = reply.model_dump_json(exclude=None if asked.explain else _unexplained(asked)).encode()
        return Answer(body, level, ids, {"search": time.perf_counter() - begun})

    def level(self, asked: SearchRequest) -> int:
        """The level that a request names or leaves to be chosen.

        Raises:
            Refused: the index has no such level, or no level is that small.
        """
        if asked.max_bytes is not None:
            size = np.dtype(self.retreever.index.layout.dtype).itemsize
            fits = [d for d in self._levels if size * 2**d <= asked.max_bytes]
            if not fits:
                least = size * 2 ** self._levels[0]
                raise Refused.field("max_bytes", f"the smallest vector takes {least} bytes, got {asked.max_bytes}")
            return max(fits)
        if asked.budget_ms is not None:
            fast = [d for d in self._levels if self._took[d] * 1000 <= asked.budget_ms]
            return max(fast, default=self._levels[0])
        return self.checked_level(asked.level, self._levels[0])

    def checked_level(self, level: int | None, first: int = 1) -> int:
        """The level asked for, the finest where it is None.

        Raises:
            Refused: it does not lie between `first` and the last level.
        """
        if level is not None and not first <= level <= self.model.depth:
            raise Refused.field("level", f"must lie within [{first}, {self.model.depth}]")
        return self.model.depth if level is None else level

    def _found(self, asked: SearchRequest, nodes: np.ndarray, level: int, threads: int) -> list[Found]:
        index = self.retreever.index
        if asked.where:
            with self._filtering:  # what is masked is what is searched
                where: Where = self._fields.mask(asked.where, index.numbers)
                numbers, scores = index.search(nodes, asked.k, level, where=where, threads=threads)
        else:
            numbers, scores = index.search(nodes, asked.k, level, threads=threads)
        found = []
        for text, row, own, similar in zip(asked.texts, nodes, numbers, scores, strict=True):
            hits = [self._hit(int(n), float(s)) for n, s in zip(own, similar, strict=True)]
            if asked.explain:
                for hit, why in zip(hits, explain(self.retreever, row, [h.id for h in hits], level), strict=True):
                    hit.why = why
            found.append(Found(query=text, hits=hits, flow=flow_of(row) if asked.explain else None))
        return found

    def _hit(self, number: int, score: float) -> PassageFound:
        passage = self.retreever.documents[number]
        return PassageFound(
            id=passage.id, score=score, title=passage.title, text=passage.text, metadata=passage.metadata
        )

    def embedded(self, nodes: np.ndarray, level: int | None) -> EmbedResponse:
        """Routed texts at a level.

        Raises:
            Refused: the tree has no such level.
        """
        chosen = self.checked_level(level)
        vectors = nodes[:, Tree(self.model.depth).level(chosen)]
        return EmbedResponse(level=chosen, dimensions=2**chosen, vectors=vectors.tolist(), model=self.model)

    def tree(self) -> TreeView:
        """All nodes."""
        return tree_view(self.retreever)

    def node(self, number: int) -> NodeView:
        """One node with its examples.

        Raises:
            Refused: the tree has no such node.
        """
        try:
            return node_view(self.retreever, number)
        except KeyError as error:
            raise Refused(404, str(error.args[0])) from None

    def documents(self, ids: Sequence[str]) -> DocumentPage:
        """Passages by id.

        Raises:
            Refused: there is none of an id.
        """
        self.retreever.index.refresh()
        numbers = self._numbers(ids)
        return DocumentPage(documents=[self._held(n) for n in numbers], total=len(self.retreever.index), next=None)

    def listed(self, after: int, limit: int) -> DocumentPage:
        """Passages in order, from the one that follows number `after` on."""
        index = self.retreever.index
        index.refresh()
        living = index.living()
        start = int(np.searchsorted(living, after, side="right"))
        own = living[start : start + limit].tolist()
        more = start + limit < len(living)
        return DocumentPage(
            documents=[self._held(n) for n in own], total=len(living), next=own[-1] if own and more else None
        )

    def _held(self, number: int) -> DocumentHeld:
        passage = self.retreever.documents[number]
        return DocumentHeld(id=passage.id, title=passage.title, text=passage.text, metadata=passage.metadata)

    def _numbers(self, ids: Sequence[str]) -> list[int]:
        numbers: list[int] = self.retreever.index.find(ids).tolist()
        missing = [name for name, number in zip(ids, numbers, strict=True) if number < 0]
        if missing:
            raise Refused.field("id", f"there is no document {missing[0]!r}", 404, "query")
        return numbers

    def add(self, passages: Sequence[Passage], nodes: np.ndarray) -> Changed:
        """Add passages that are routed already; they are on disk before this returns.

        Raises:
            Refused: there is one of an id already, or an id twice; nothing is added.
        """
        with self._filtering:
            self.retreever.index.refresh()
            try:
                self.retreever.add_routed(passages, nodes)
            except ValueError as error:
                raise Refused(409, str(error)) from None
        return self._changed(len(passages))

    def delete(self, ids: Sequence[str]) -> Changed:
        """Delete passages; on disk before this returns.

        Raises:
            Refused: there is none of an id; nothing is deleted.
        """
        with self._filtering:
            self.retreever.index.refresh()
            self._numbers(ids)
            self.retreever.delete(list(dict.fromkeys(ids)))
        return self._changed(len(set(ids)))

    def _changed(self, count: int) -> Changed:
        return Changed(changed=count, total=len(self.retreever.index), model=self.model)

    def behind(self, wanted: Changes) -> Changes:
        """What has to be changed for this bundle to be as changed as `wanted` says.

        Raises:
            BundleError: it is no copy.
        """
        if self.retreever.folder is None:
            raise ValueError("folder: a bundle in memory has no origin")
        self.retreever.index.refresh()
        return wanted.beyond(self.retreever.index, self.retreever.documents, base(self.retreever.folder))

    @property
    def total(self) -> int:
        """How many passages there are."""
        self.retreever.index.refresh()
        return len(self.retreever.index)


def _unexplained(asked: SearchRequest) -> Any:
    """Fields that are left out where no explanation was asked for."""
    found = {"flow": True, "hits": {"__all__": {"why"}}}
    return found if asked.queries is None else {"results": {"__all__": found}}

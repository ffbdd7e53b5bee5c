"""Answers requests from a loaded bundle, as the schema has them. HTTP, Ray and encoders are not known here.

Every call first reads the changes that another process has made in the bundle's folder.
"""

import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from retreever.bundle.retriever import Retreever
from retreever.bundle.tree_view import NodeView, TreeView, explain_hits, make_node_view, make_tree_view, trace_nodes
from retreever.data.dataset import Passage
from retreever.index.tree_index import IndexFilter
from retreever.model.tree import Tree
from retreever.service.contract import SearchAnswer
from retreever.service.controller.bundle_changes import BundleChanges, read_base
from retreever.service.refusal import RefusalError
from retreever.service.schema import (
    ChangeResponse,
    DocumentPage,
    EmbedResponse,
    ModelInfo,
    MultiSearchResponse,
    QueryResult,
    SearchHit,
    SearchRequest,
    SearchResponse,
    StoredDocument,
)
from retreever.service.version.metadata_filter import MetadataIndex

LATENCY_SMOOTHING = 0.2  # weight of the newest search in the mean time of a level

RoutedPart = tuple[np.ndarray, np.ndarray]
"""Node probabilities of some texts, (texts, nodes), and their encodings, (texts, dim)."""


class RequestHandler:
    """Answers requests from one bundle.

    Args:
        retreever: the bundle.
        version: name of the version, which every answer holds.
        threads: threads of a search.
    """

    def __init__(self, retreever: Retreever, version: str, threads: int = 1):
        self.retreever, self._fields = retreever, MetadataIndex(retreever.documents)
        config = retreever.config
        self.model = ModelInfo(
            version=version,
            digest=retreever.digest[:16],
            depth=config.tree.depth,
            similarity=config.loss.similarity,
            encoder=config.encoder.name,
        )
        self._threads = threads
        self._filter_lock = threading.Lock()
        self._level_seconds = [0.0] * (config.tree.depth + 1)
        self._levels = retreever.index.layout.levels
        for level in self._levels:
            self._level_seconds[level] = self._time_search(level)

    def _time_search(self, level: int) -> float:
        nodes = self.make_uniform_query()
        begun = time.perf_counter()
        self.retreever.index.search(nodes, 10, level)
        return time.perf_counter() - begun

    def make_uniform_query(self) -> np.ndarray:
        """Make a query that reaches all leaves alike: node probabilities, float32 (1, nodes)."""
        depth = self.model.depth
        return np.concatenate([np.full(2**d, 0.5**d, np.float32) for d in range(depth + 1)])[None]

    def search(self, requests: Sequence[SearchRequest], routed: Sequence[RoutedPart]) -> list[SearchAnswer | Exception]:
        """Answer a batch of requests, one answer or exception each, in order; `routed` has their queries."""
        self.retreever.index.refresh()
        answers: dict[int, SearchAnswer | Exception] = {}
        alike: dict[tuple[Any, ...], list[int]] = {}  # places of the requests that one search of the index serves
        for place, request in enumerate(requests):
            try:
                level = self.choose_level(request)
            except RefusalError as refused:
                answers[place] = refused
                continue
            own = place if request.where else None
            alike.setdefault((level, request.k, request.hybrid, request.explain, own), []).append(place)
        for (level, *_), places in alike.items():
            parts = [routed[place] for place in places]
            found = self._answer_alike([requests[place] for place in places], parts, level)
            answers.update(zip(places, found, strict=True))
        return [answers[place] for place in range(len(requests))]

    def _answer_alike(
        self, requests: Sequence[SearchRequest], routed: Sequence[RoutedPart], level: int
    ) -> Sequence[SearchAnswer | Exception]:
        """Answer requests of equal level, k, filter, weight of words and wish for explanation."""
        begun = time.perf_counter()
        try:
            nodes, encodings = map(np.concatenate, zip(*routed, strict=True))
            found = self._find_passages(requests, nodes, encodings, level)
        except ValueError as error:
            return [RefusalError(422, str(error))] * len(requests)
        except Exception as error:  # fails these requests alone, not their batch
            return [error] * len(requests)
        took = time.perf_counter() - begun
        self._level_seconds[level] += LATENCY_SMOOTHING * (took / len(found) - self._level_seconds[level])
        common = {"level": level, "took_ms": round(took * 1000, 3), "model": self.model}
        answers, rest = [], iter(found)
        for request in requests:
            own = [next(rest) for _ in request.texts]
            reply: SearchResponse | MultiSearchResponse
            if request.queries is None:
                reply = SearchResponse(**dict(own[0]), **common)
            else:
                reply = MultiSearchResponse(results=own, **common)
            ids = [hit.id for hit in own[0].hits]
            body = reply.model_dump_json(exclude=None if request.explain else _explanation_fields(request)).encode()
            answers.append(SearchAnswer(body, level, ids, {"search": time.perf_counter() - begun}))
        return answers

    def choose_level(self, request: SearchRequest) -> int:
        """Choose the level to search: the one named, or the finest within the request's bytes or time.

        Raises:
            RefusalError: the index has no such level, or none is small enough.
        """
        if request.max_bytes is not None:
            size = np.dtype(self.retreever.index.layout.dtype).itemsize
            fits = [d for d in self._levels if size * 2**d <= request.max_bytes]
            if not fits:
                least = size * 2 ** self._levels[0]
                raise RefusalError.for_field(
                    "max_bytes", f"the smallest vector takes {least} bytes, got {request.max_bytes}"
                )
            return max(fits)
        if request.budget_ms is not None:
            fast = [d for d in self._levels if self._level_seconds[d] * 1000 <= request.budget_ms]
            return max(fast, default=self._levels[0])
        return self.check_level(request.level, self._levels[0])

    def check_level(self, level: int | None, first: int = 1) -> int:
        """Return `level`, or the finest where it is None.

        Raises:
            RefusalError: it does not lie between `first` and the finest level.
        """
        if level is not None and not first <= level <= self.model.depth:
            raise RefusalError.for_field("level", f"must lie within [{first}, {self.model.depth}]")
        return self.model.depth if level is None else level

    def _find_passages(
        self, requests: Sequence[SearchRequest], nodes: np.ndarray, encodings: np.ndarray, level: int
    ) -> list[QueryResult]:
        """Find the passages of every query of some requests that are alike, one query after the other."""
        first, texts = requests[0], [text for request in requests for text in request.texts]
        hybrid = self.retreever.make_hybrid(texts, first.hybrid, encodings)
        search = partial(self.retreever.search_nodes, nodes, first.k, level, threads=self._threads, hybrid=hybrid)
        if first.where:
            with self._filter_lock:  # nothing is added between mask and search
                where: IndexFilter = self._fields.mask(first.where, self.retreever.index.next_number)
                (numbers, scores), relevances = search(where=where)
        else:
            (numbers, scores), relevances = search()
        shared: list[list[dict[str, float] | None]] = [[None] * len(own) for own in numbers]
        if hybrid is not None and first.explain:
            shared = [list(own) for own in self.retreever.index.explain_words(hybrid, numbers, level)]
        found = []
        for text, row, words, *columns in zip(texts, nodes, shared, numbers, scores, relevances, strict=True):
            hits = [self._make_hit(int(n), float(s), r) for n, s, r in zip(*columns, strict=True)]
            if first.explain:
                whys = explain_hits(self.retreever, row, [h.id for h in hits], level)
                for hit, why, own in zip(hits, whys, words, strict=True):
                    hit.why, hit.words = why, own
            flow = trace_nodes(self.retreever, row) if first.explain else None
            found.append(QueryResult(query=text, hits=hits, flow=flow))
        return found

    def _make_hit(self, number: int, score: float, relevance: float | None) -> SearchHit:
        passage = self.retreever.documents[number]
        return SearchHit(
            id=passage.id,
            score=score,
            relevance=relevance,
            title=passage.title,
            text=passage.text,
            metadata=passage.metadata,
        )

    def make_embeddings(self, nodes: np.ndarray, level: int | None) -> EmbedResponse:
        """Cut node probabilities, (texts, nodes), to one level.

        Raises:
            RefusalError: the tree has no such level.
        """
        chosen = self.check_level(level)
        vectors = nodes[:, Tree(self.model.depth).level(chosen)]
        return EmbedResponse(level=chosen, dimensions=2**chosen, vectors=vectors.tolist(), model=self.model)

    def read_tree(self) -> TreeView:
        """Read all nodes."""
        return make_tree_view(self.retreever)

    def read_node(self, number: int) -> NodeView:
        """Read one node with its examples.

        Raises:
            RefusalError: the tree has no such node.
        """
        try:
            return make_node_view(self.retreever, number)
        except KeyError as error:
            raise RefusalError(404, str(error.args[0])) from None

    def read_documents(self, ids: Sequence[str]) -> DocumentPage:
        """Read documents by id.

        Raises:
            RefusalError: an id is unknown.
        """
        self.retreever.index.refresh()
        numbers = self._find_numbers(ids)
        return DocumentPage(
            documents=[self._make_document(n) for n in numbers], total=len(self.retreever.index), next=None
        )

    def list_documents(self, after: int, limit: int) -> DocumentPage:
        """List at most `limit` documents in the order of their numbers, from the first above `after` on."""
        index = self.retreever.index
        index.refresh()
        numbers = index.list_numbers()
        start = int(np.searchsorted(numbers, after, side="right"))
        page = numbers[start : start + limit].tolist()
        following = page[-1] if page and start + limit < len(numbers) else None
        return DocumentPage(documents=[self._make_document(n) for n in page], total=len(numbers), next=following)

    def _make_document(self, number: int) -> StoredDocument:
        passage = self.retreever.documents[number]
        return StoredDocument(id=passage.id, title=passage.title, text=passage.text, metadata=passage.metadata)

    def _find_numbers(self, ids: Sequence[str]) -> list[int]:
        numbers: list[int] = self.retreever.index.find_numbers(ids).tolist()
        missing = [name for name, number in zip(ids, numbers, strict=True) if number < 0]
        if missing:
            raise RefusalError.for_field("id", f"there is no document {missing[0]!r}", 404, "query")
        return numbers

    def add(self, passages: Sequence[Passage], nodes: np.ndarray, encodings: np.ndarray) -> ChangeResponse:
        """Add passages that are routed already, see `Retreever.add_routed`; they are on disk when this returns.

        Raises:
            RefusalError: an id exists already, or is given twice; nothing is added.
        """
        with self._filter_lock:
            self.retreever.index.refresh()
            try:
                self.retreever.add_routed(passages, nodes, encodings)
            except ValueError as error:
                raise RefusalError(409, str(error)) from None
        return self._make_change_response(len(passages))

    def delete(self, ids: Sequence[str]) -> ChangeResponse:
        """Delete passages; the change is on disk when this returns.

        Raises:
            RefusalError: an id is unknown; nothing is deleted.
        """
        with self._filter_lock:
            self.retreever.index.refresh()
            self._find_numbers(ids)
            self.retreever.delete(list(dict.fromkeys(ids)))
        return self._make_change_response(len(set(ids)))

    def _make_change_response(self, count: int) -> ChangeResponse:
        return ChangeResponse(changed=count, total=len(self.retreever.index), model=self.model)

    def find_missing_changes(self, wanted: BundleChanges) -> BundleChanges:
        """Find the changes of `wanted` that this bundle lacks.

        Raises:
            BundleError: the bundle is not one of the service's copies.
            ValueError: it is not on disk.
        """
        if self.retreever.folder is None:
            raise ValueError("folder: a bundle in memory has no origin")
        self.retreever.index.refresh()
        return wanted.find_missing(self.retreever.index, self.retreever.documents, read_base(self.retreever.folder))

    def count_passages(self) -> int:
        """Count the passages of the corpus."""
        self.retreever.index.refresh()
        return len(self.retreever.index)


def _explanation_fields(request: SearchRequest) -> Any:
    """Fields that an answer without explanation leaves out."""
    found = {"flow": True, "hits": {"__all__": {"why", "words"}}}
    return found if request.queries is None else {"results": {"__all__": found}}

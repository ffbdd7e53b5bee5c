"""`TreeIndex`: routed passages, the exact k best for a query at any level, and changes to them.

An index is an immutable list of segments, with the set of their passages that are alive. Adding, deleting and
compacting make a new list, so that a search sees the old state or the new one, never a mix. An index that was loaded
from a folder keeps the folder up to date: a change is on disk before the call returns. Texts and encoders are not known
here.

The file is longer than most because it is one class, the only interface of this department, and half of it says what
each call means; the work is done in `search/`, `build/` and `index_store`.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from jaxtyping import Float, Int

from retreever.errors import BundleError
from retreever.index import index_store
from retreever.index.build.segment_builder import build_segments
from retreever.index.build.segment_merge import compact_segments
from retreever.index.codes.passage_code import PassageCode
from retreever.index.index_layout import Layout, check_nodes
from retreever.index.index_state import IndexFilter, IndexState
from retreever.index.index_stats import summarize_index
from retreever.index.lexical.hybrid_query import Hybrid, HybridQuery, weigh_hybrid_queries
from retreever.index.lexical.lexical_side import LexicalSide
from retreever.index.lexical.word_explanation import explain_query_words
from retreever.index.lexical.words import LexicalSettings
from retreever.index.search.certified_search import Evidence, search_in_threads
from retreever.index.search.rank_fusion import search_by_ranks
from retreever.index.segment import Segment, SegmentView
from retreever.model.tree import Tree
from retreever.system.files import write_atomically
from retreever.system.threads import PROCESSOR_COUNT

if TYPE_CHECKING:
    from retreever.index.search.device_search import DeviceSearch

NumbersAndScores = tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]
WARMUP_PASSAGES = 256  # passages searched to compile the kernels


class TreeIndex:
    """Made by `build` or opened by `load`.

    A passage's *number* counts the passages added before it; numbers are never reused.
    """

    def __init__(
        self,
        layout: Layout,
        state: IndexState,
        folder: Path | None = None,
        stored: index_store.StoredIndex | None = None,
    ):
        self.layout, self._state, self._folder = layout, state, folder
        self._stored = stored or index_store.StoredIndex()
        self._writing = threading.Lock()
        self._device_searches: dict[str, DeviceSearch] = {}
        self._compile_kernels()

    def _compile_kernels(self) -> None:
        """Compile the kernels now, not at the first query. No bound excludes a passage here, so search only a few."""
        uniform = [np.full(2**d, 0.5**d, np.float32) for d in range(self.layout.depth + 1)]
        few = np.zeros(self.next_number, bool)
        few[self.list_numbers()[:WARMUP_PASSAGES]] = True
        first, last = self.layout.coded_levels[0], self.layout.depth
        uncoded = [d for d in range(first, last) if self.layout.find_code_level(d) < d]
        for level in {first, *uncoded[:1], last}:
            self.search(np.concatenate(uniform)[None], 1, level, where=few)
        if self.has_words:
            dim = self.layout.encoding_dim
            hybrid = Hybrid(["a"], 1.0, np.ones((1, dim)), 1.0) if dim else Hybrid(["a"], 1.0)
            self.search(np.concatenate(uniform)[None], 1, last, where=few, hybrid=hybrid)

    def __len__(self) -> int:
        return self._state.alive_count

    @property
    def ids(self) -> list[str]:
        """Ids of the passages, in the order in which they were added."""
        return [name for name, _ in self._state.iterate_ids()]

    @property
    def next_number(self) -> int:
        """The number that the next passage will get: how many were ever added, deleted ones included."""
        return self._state.next_number

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Segments in the order of their passages' numbers."""
        return tuple(view.segment for view in self._state.views)

    def find_ids(self, numbers: Iterable[int]) -> list[str]:
        """Ids by number.

        Raises:
            ValueError: no passage has one of the numbers.
        """
        return self._state.find_ids(list(numbers))

    def list_numbers(self) -> Int[np.ndarray, " passages"]:
        """Numbers of all living passages, in the order in which they were added."""
        return self._state.list_numbers()

    def find_numbers(self, ids: Iterable[str]) -> Int[np.ndarray, " passages"]:
        """Numbers of passages by id; -1 for an id that the index does not have."""
        numbers = (self._state.find_number(name) for name in ids)
        return np.array([-1 if number is None else number for number in numbers], np.int64)

    def read_probabilities(
        self, numbers: Int[np.ndarray, " passages"], level: int
    ) -> Float[np.ndarray, "passages nodes"]:
        """Stored probabilities of passages on the nodes of a level in [0, depth], float32, as exact as `layout.dtype`.

        Zeros for a number that no passage has. Of a compact index they are decoded from the codes.
        """
        if level == 0:
            return np.ones((len(numbers), 1), np.float32)
        return self.layout.to_probabilities(self._state.read_vectors(numbers, level, self.layout))

    @classmethod
    def build(
        cls,
        nodes: Iterable[Float[np.ndarray, "chunk nodes"]],
        ids: Sequence[str],
        layout: Layout,
        folder: Path | None = None,
        *,
        texts: Sequence[str] | None = None,
        lexical: LexicalSettings | None = None,
        encodings: Float[np.ndarray, "passages dim"] | None = None,
    ) -> "TreeIndex":
        """Index passages given as node probabilities in heap order, in chunks.

        Args:
            nodes: chunks of (passages, 2**(depth + 1) - 1), together as many passages as `ids`.
            folder: write the index there as it grows, so that memory holds two segments at most.
            texts: of the passages, one for each id: the index gets a lexical side, for hybrid searches.
            lexical: how texts become words; needed with `texts`.
            encodings: of the passages by the frozen encoder, (passages, `layout.encoding_dim`), for hybrid searches
                that add their cosines; needed where the layout has a width for them, and only with `texts`.

        Raises:
            ValueError: there is no passage, an id is there twice, there are more or fewer passages or texts than ids,
                rows are not node probabilities, or `texts` come without `lexical`.
            MissingExtraError: a stemmer is asked for and PyStemmer is not installed.
        """
        if not len(ids):
            raise ValueError("ids: an index needs at least one passage, got none")
        _refuse_duplicates(ids)
        codes: dict[int, PassageCode] = {}
        side = None
        _check_encodings(encodings, ids, layout)
        if layout.encoding_dim and (texts is None or layout.compact):
            raise ValueError("encodings: are kept beside texts, in an index that is not compact")
        if texts is not None:
            _check_texts(texts, ids)
            if lexical is None:
                raise ValueError("lexical: is needed with texts, got none")
            side = LexicalSide.fit(texts, lexical, layout)
        segments = build_segments(nodes, ids, layout, codes, lexical=side, texts=texts, encodings=encodings)
        if folder is None:
            views = tuple(SegmentView.of(segment) for segment in segments)
            return cls(layout, IndexState(views, codes, len(ids), side).measure_deviations(layout))
        with write_atomically(folder) as aside:
            stored_segments = [index_store.store_segment(aside, layout, segment) for segment in segments]
            views = tuple(SegmentView.of(segment) for _, segment in stored_segments)
            state = IndexState(views, codes, len(ids), side).measure_deviations(layout)
            index_store.publish_state(aside, layout, state, {id(segment): name for name, segment in stored_segments})
        return cls.load(folder)

    @overload
    def search(
        self,
        queries: Float[np.ndarray, "queries nodes"],
        k: int,
        level: int | None = None,
        *,
        where: IndexFilter | None = None,
        threads: int | None = None,
        device: str | None = None,
        hybrid: Hybrid | None = None,
        certify: Literal[False] = False,
    ) -> NumbersAndScores: ...

    @overload
    def search(
        self,
        queries: Float[np.ndarray, "queries nodes"],
        k: int,
        level: int | None = None,
        *,
        where: IndexFilter | None = None,
        threads: int | None = None,
        device: str | None = None,
        hybrid: Hybrid | None = None,
        certify: Literal[True],
    ) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"], list[Evidence]]: ...

    def search(
        self,
        queries: Float[np.ndarray, "queries nodes"],
        k: int,
        level: int | None = None,
        *,
        where: IndexFilter | None = None,
        threads: int | None = None,
        device: str | None = None,
        hybrid: Hybrid | None = None,
        certify: bool = False,
    ) -> Any:
        """The exact k best passages at a level; of a compact index, the best by estimate. Ties go to the id that sorts
        first.

        Args:
            queries: node probabilities in heap order.
            k: passages a query, at least 1; an index of fewer passages returns all.
            level: in [1, depth]; the last where it is None.
            where: search only these passages: a mask by number, or ids.
            threads: queries answered in parallel; the number of processors where it is None.
            device: of torch, such as "cuda": compare all passages there by matrix products, instead of excluding most
                by bounds. It pays for hundreds of queries at once, and keeps a copy of the vectors there. The answers
                are the same.
            hybrid: search for the k largest sums of similarity and weighted BM25 of these texts; see `hybrid_query`.
                Answers are as exact, and scores are the sums. Or search by reciprocal ranks.
            certify: also return, for every query, the evidence that no better passage was left out.

        Returns:
            Numbers (queries, k) and similarities (queries, k), or sums, best first; then the evidence if `certify`.

        Raises:
            ValueError: k or level is out of range, rows are not node probabilities, the mask has another length, or the
                index has no such id; of a compact index also for another level than the last, `certify` or `device`;
                `hybrid` does not fit the queries, the index has no lexical side, or a device is named too.
            RuntimeError: torch has no such device, or the vectors do not fit there.
        """
        depth = self.layout.depth
        chosen = depth if level is None else level
        _check_request(self.layout, k, chosen, device, certify)
        if hybrid is not None and hybrid.by_ranks:
            if certify:
                raise ValueError("certify: reciprocal ranks have nothing to certify")
            return search_by_ranks(self, queries, hybrid, k, chosen, where, threads)
        whole = self._state
        state = whole if where is None else whole.restrict(whole.make_mask(where))
        parts = None if hybrid is None else self._weigh_parts(whole, hybrid, chosen, len(queries), device)
        vectors = self.layout.to_stored_form(check_nodes(queries, depth, "queries")[:, Tree(depth).level(chosen)])
        size = min(k, state.alive_count)
        if device is None or not size or not len(vectors):
            answers = search_in_threads(vectors, chosen, size, self.layout, state, threads or PROCESSOR_COUNT, parts)
        else:
            answers = self._get_device_search(device).search(
                vectors, chosen, size, self.layout, state.views, threads or PROCESSOR_COUNT
            )
        numbers = np.array([a[0] for a in answers], np.int64).reshape(len(vectors), size)
        scores = np.array([a[1] for a in answers], np.float32).reshape(numbers.shape)
        return (numbers, scores, [a[2] for a in answers]) if certify else (numbers, scores)

    def explain_words(
        self, hybrid: Hybrid, numbers: Int[np.ndarray, "queries k"], level: int | None = None
    ) -> list[list[dict[str, float]]]:
        """What the words of each query add to the scores of passages, in a hybrid search at a level.

        Args:
            numbers: of passages, as `search` returns them.
            level: as in `search`.

        Returns:
            For each query and passage what each of the query's words adds that the passage has, in the query's order.
            Their sum is the lexical part of the passage's score.

        Raises:
            ValueError: `hybrid` does not fit the queries, the level is out of range, or the index has no lexical side.
        """
        state, chosen = self._state, self.layout.depth if level is None else level
        _check_request(self.layout, 1, chosen, None, False)
        parts = self._weigh_parts(state, hybrid, chosen, len(numbers), None)
        return [explain_query_words(state, own.words, found) for own, found in zip(parts, numbers, strict=True)]

    def _weigh_parts(
        self, state: IndexState, hybrid: Hybrid, level: int, queries: int, device: str | None
    ) -> list[HybridQuery]:
        if state.lexical is None:
            raise ValueError("hybrid: this index has no lexical side; build it anew from texts")
        if device is not None:
            raise ValueError(f"hybrid: is searched on the processor alone, got device {device!r}")
        hybrid.check(queries, self.layout.encoding_dim)
        passages = sum(len(view.segment) for view in state.views)
        return weigh_hybrid_queries(hybrid, level, state.lexical, state.postings, passages)

    @property
    def has_words(self) -> bool:
        """Whether the index has a lexical side, which a hybrid search needs."""
        return self._state.lexical is not None

    def _get_device_search(self, device: str) -> "DeviceSearch":
        """The search on a device; one for each device, made on first use."""
        from retreever.index.search.device_search import DeviceSearch  # imports torch, which takes seconds

        if device not in self._device_searches:
            self._device_searches[device] = DeviceSearch(device)
        return self._device_searches[device]

    def add(
        self,
        nodes: Float[np.ndarray, "passages nodes"],
        ids: Sequence[str],
        before_commit: Callable[[int], None] | None = None,
        *,
        texts: Sequence[str] | None = None,
        encodings: Float[np.ndarray, "passages dim"] | None = None,
    ) -> np.ndarray:
        """Add passages. When this returns, searches find them, and they are on disk if the index has a folder.

        Args:
            before_commit: called with the number of the first new passage, after all checks and before the passages
                count, while the index is locked for changes. If it raises, nothing is added.
            texts: of the passages, one for each id; needed where the index has a lexical side, else not read.
            encodings: of the passages; needed where the index keeps them, else not read.

        Returns:
            The numbers of the passages.

        Raises:
            ValueError: the index is compact, it has one of the ids, an id is there twice, there are more or fewer ids
                or texts than passages, or rows are not node probabilities. Nothing is added then.
            BundleError: another process is changing the index's folder, or has changed it since it was read.
        """
        if self.layout.compact:
            raise ValueError("compact: an index of codes alone cannot grow; build it anew")
        with self._change() as state:
            _refuse_duplicates(ids)
            known = [name for name in ids if state.find_number(name) is not None]
            if known:
                raise ValueError(f"ids: the index has {known[0]!r} already; delete it first")
            if state.lexical is not None:
                _check_texts(texts, ids)
            if self.layout.encoding_dim:
                _check_encodings(encodings, ids, self.layout)
            codes, first = dict(state.codes), state.next_number
            chunks = [nodes] if len(nodes) else []
            new = build_segments(chunks, ids, self.layout, codes, first, state.lexical, texts, encodings)
            views = (*state.views, *(SegmentView.of(segment) for segment in new))
            if before_commit is not None:
                before_commit(state.next_number)
            self._replace_state(replace(state, views=views, codes=codes, next_number=state.next_number + len(ids)))
        return np.arange(state.next_number, state.next_number + len(ids))

    def delete(self, ids: Sequence[str]) -> None:
        """Delete passages; searches that begin after this returns do not find them.

        Raises:
            ValueError: the index does not have one of the ids. Nothing is deleted then.
            BundleError: another process is changing the index's folder, or has changed it since it was read.
        """
        with self._change() as state:
            kept = np.ones(state.next_number, bool)
            kept[state.find_numbers(ids)] = False
            self._replace_state(state.restrict(kept))

    @contextmanager
    def _change(self) -> Iterator[IndexState]:
        with self._writing, index_store.lock_for_writing(self._folder) if self._folder else nullcontext():
            if self._folder and self._is_stale(self._folder):
                raise BundleError(f"{self._folder}: another process has changed this index; refresh it first")
            yield self._state

    def _replace_state(self, state: IndexState) -> None:
        """Compact a new state, write it if the index has a folder, and let searches see it."""
        had_codes = bool(self._state.codes)
        state = replace(state, views=compact_segments(state.views, self.layout, state.codes))
        if self._folder:
            self._stored = index_store.publish_state(self._folder, self.layout, state, self._stored.segment_names)
        self._state = state
        if state.codes and not had_codes:
            self._compile_kernels()

    def refresh(self) -> bool:
        """Load what another process has changed in the index's folder; returns whether it had changed anything.

        Raises:
            BundleError: a file is missing or damaged; the index keeps its state.
        """
        if not self._folder or not self._is_stale(self._folder):  # so as not to wait for a change of this process
            return False
        with self._writing:
            if not self._is_stale(self._folder):
                return False
            _, self._state, self._stored = index_store.open_index(self._folder, mmap=True, checksums=False)
        return True

    def _is_stale(self, folder: Path) -> bool:
        return index_store.read_edition(folder) != self._stored.edition

    def stats(self) -> dict[str, Any]:
        """Statistics of the index; see `index_stats`."""
        return summarize_index(self.layout, self._state)

    def save(self, folder: Path) -> None:
        """Write a copy of the index to `folder`, whole or not at all. Later changes of this index do not go there."""
        with write_atomically(folder) as aside:
            index_store.publish_state(aside, self.layout, self._state, {})

    @classmethod
    def load(cls, folder: Path, model: str | None = None, mmap: bool = True, checksums: bool = False) -> "TreeIndex":
        """Open an index.

        Args:
            model: digest of the model that will search it; an index of another model is refused.
            mmap: map the arrays instead of reading them, so that processes of a machine share one copy.
            checksums: read every file and compare its digest; otherwise only sizes are compared.

        Raises:
            BundleError: a file is missing, damaged or of another size, or the index was built for another model.
        """
        layout, state, stored = index_store.open_index(folder, mmap, checksums)
        if model is not None and model != layout.model:
            raise BundleError(f"{folder}: was built for model {layout.model[:16]}, not for model {model[:16]}")
        return cls(layout, state, folder, stored)


def _check_request(layout: Layout, k: int, level: int, device: str | None, certify: bool) -> None:
    if k < 1:
        raise ValueError(f"k: must be at least 1, got {k}")
    if not 1 <= level <= layout.depth:
        raise ValueError(f"level: must lie within [1, {layout.depth}], got {level}")
    if layout.compact and level != layout.depth:
        raise ValueError(f"level: a compact index has level {layout.depth} alone, got {level}")
    if layout.compact and certify:
        raise ValueError("certify: a compact index estimates, it has nothing to certify")
    if layout.compact and device is not None:
        raise ValueError(f"device: a compact index has no vectors to put on {device}")


def _check_texts(texts: Sequence[str] | None, ids: Sequence[str]) -> None:
    if texts is None or len(texts) != len(ids):
        got = "none" if texts is None else str(len(texts))
        raise ValueError(f"texts: this index has a lexical side and needs one for each of {len(ids)} ids, got {got}")


def _check_encodings(encodings: np.ndarray | None, ids: Sequence[str], layout: Layout) -> None:
    wanted = (len(ids), layout.encoding_dim)
    if encodings is None and not layout.encoding_dim:
        return
    if encodings is None or encodings.shape != wanted:
        got = "none" if encodings is None else str(encodings.shape)
        raise ValueError(f"encodings: this index keeps encodings of width {wanted[1]} and needs {wanted}, got {got}")


def _refuse_duplicates(ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        duplicate = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"ids: {duplicate!r} is there twice")

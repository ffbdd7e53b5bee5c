"""A corpus as seen by a tree, and the exact best passages for a query at any level.

An index is an immutable list of segments and which of their passages are alive; adding, deleting and tidying make a
new list, so that a search sees the old state or the new one, never a mix. An index that was loaded from a folder keeps
it up to date: a change is on disk before the call returns. Texts and encoders are not known here.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from jaxtyping import Bool, Float, Int

from retreever.errors import BundleError
from retreever.index import index_store
from retreever.index.build.segment_builder import segments
from retreever.index.build.segment_merge import tidied
from retreever.index.codes.passage_code import Code
from retreever.index.index_layout import Layout, checked
from retreever.index.index_state import State
from retreever.index.search.certified_search import Evidence, Search
from retreever.index.segment import Segment, View
from retreever.model.tree import Tree
from retreever.system.files import write_aside
from retreever.system.threads import PROCESSORS, side_by_side

if TYPE_CHECKING:
    from retreever.index.search.device_search import Products

Found = tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]
Answer = tuple[np.ndarray, np.ndarray, Evidence]
MEASURED = ("left_by_first_bound", "left_by_second_bound", "recall_of_estimates")  # see `Survival`
FEW = 256  # passages searched to compile the kernels
TOGETHER = 64  # queries at most that read codes together
Where = Bool[np.ndarray, " numbers"] | Sequence[str]


class TreeIndex:
    """Build it with `build`, or open one with `load`.

    A passage's *number* is its place in the order in which passages were added; numbers are never used again.
    """

    def __init__(
        self, layout: Layout, state: State, folder: Path | None = None, stored: index_store.Stored | None = None
    ):
        self.layout, self._state, self._folder, self._stored = layout, state, folder, stored or index_store.Stored()
        self._writing = threading.Lock()
        self._devices: dict[str, Products] = {}
        self._warm()

    def _warm(self) -> None:
        """Compile the kernels now, not at the first query; among few passages, since no bound rules out any here."""
        even = [np.full(2**d, 0.5**d, np.float32) for d in range(self.layout.depth + 1)]
        few = np.zeros(self.numbers, bool)
        few[self.living()[:FEW]] = True
        first, last = self.layout.coded_levels[0], self.layout.depth
        uncoded = [d for d in range(first, last) if self.layout.coded(d) < d]
        for level in {first, *uncoded[:1], last}:
            self.search(np.concatenate(even)[None], 1, level, where=few)

    def __len__(self) -> int:
        return self._state.alive

    @property
    def ids(self) -> list[str]:
        """Ids of the passages, in the order in which they were added."""
        return [name for name, _ in self._state.named()]

    @property
    def numbers(self) -> int:
        """How many numbers have been given away: those of the living and of the deleted."""
        return self._state.next

    @property
    def segments(self) -> tuple[Segment, ...]:
        """What it is made of, in the order of the passages' numbers."""
        return tuple(view.segment for view in self._state.views)

    def ids_of(self, numbers: Iterable[int]) -> list[str]:
        """Ids by number.

        Raises:
            ValueError: a number that no passage has.
        """
        return self._state.ids_of(list(numbers))

    def living(self) -> Int[np.ndarray, " passages"]:
        """Numbers of all passages, in the order in which they were added."""
        return self._state.living()

    def find(self, ids: Iterable[str]) -> Int[np.ndarray, " passages"]:
        """Numbers of passages by id; -1 for an id that the index does not have."""
        found = (self._state.number(name) for name in ids)
        return np.array([-1 if number is None else number for number in found], np.int64)

    def probabilities(self, numbers: Int[np.ndarray, " passages"], level: int) -> Float[np.ndarray, "passages nodes"]:
        """What the index keeps of passages on the nodes of a level, in [0, depth]: float32, as exact as its `dtype`.

        Zeros for a number that no passage has. Of a compact index they are what its codes stand for.
        """
        if level == 0:
            return np.ones((len(numbers), 1), np.float32)
        return self.layout.probabilities(self._state.vectors(numbers, level, self.layout))

    @classmethod
    def build(
        cls,
        nodes: Iterable[Float[np.ndarray, "chunk nodes"]],
        ids: Sequence[str],
        layout: Layout,
        folder: Path | None = None,
    ) -> "TreeIndex":
        """Index passages given as node probabilities in heap order, in chunks.

        Args:
            nodes: chunks of (passages, 2**(depth + 1) - 1) that add up to `ids`.
            folder: write the index there as it grows, so that no more than a segment of it is in memory.

        Raises:
            ValueError: no passages, an id twice, another number of passages than of ids, or rows that are not node
                probabilities.
        """
        if not len(ids):
            raise ValueError("ids: an index needs at least one passage, got none")
        _refuse_twice(ids)
        codes: dict[int, Code] = {}
        made = segments(nodes, ids, layout, codes)
        if folder is None:
            return cls(layout, State(tuple(View.of(segment) for segment in made), codes, len(ids)))
        with write_aside(folder) as aside:
            kept = [index_store.keep(aside, layout, segment) for segment in made]
            state = State(tuple(View.of(segment) for _, segment in kept), codes, len(ids))
            index_store.publish(aside, layout, state, {id(segment): name for name, segment in kept})
        return cls.load(folder)

    @overload
    def search(
        self,
        queries: Float[np.ndarray, "queries nodes"],
        k: int,
        level: int | None = None,
        *,
        where: Where | None = None,
        threads: int | None = None,
        device: str | None = None,
        certify: Literal[False] = False,
    ) -> Found: ...

    @overload
    def search(
        self,
        queries: Float[np.ndarray, "queries nodes"],
        k: int,
        level: int | None = None,
        *,
        where: Where | None = None,
        threads: int | None = None,
        device: str | None = None,
        certify: Literal[True],
    ) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"], list[Evidence]]: ...

    def search(
        self,
        queries: Float[np.ndarray, "queries nodes"],
        k: int,
        level: int | None = None,
        *,
        where: Where | None = None,
        threads: int | None = None,
        device: str | None = None,
        certify: bool = False,
    ) -> Any:
        """The exact best passages of a level, or the best by estimate where the index is compact; ties go to the id
        that sorts first.

        Args:
            queries: node probabilities in heap order.
            k: passages a query, at least 1; all of them where there are fewer.
            level: in [1, depth]; the finest where it is None.
            where: only these passages: a mask by number, or ids.
            threads: queries answered at a time; as many as there are processors where it is None.
            device: of torch, as "cuda": compare all passages there by matrix products instead of ruling out most, which
                pays for hundreds of queries at once; it keeps a copy of the vectors. The answers are the same.
            certify: also return, for every query, the evidence that nothing better was left out.

        Returns:
            Numbers (queries, k) and similarities (queries, k), best first; then the evidence where it was asked for.

        Raises:
            ValueError: k or level out of range, rows that are not node probabilities, a mask of another length or an
                id that is not in the index; another level than the last, `certify` or `device`, of a compact index.
            RuntimeError: torch has no such device, or the vectors do not fit there.
        """
        depth = self.layout.depth
        chosen = depth if level is None else level
        if k < 1:
            raise ValueError(f"k: must be at least 1, got {k}")
        if not 1 <= chosen <= depth:
            raise ValueError(f"level: must lie within [1, {depth}], got {chosen}")
        if self.layout.compact and chosen != depth:
            raise ValueError(f"level: a compact index has level {depth} alone, got {chosen}")
        if self.layout.compact and certify:
            raise ValueError("certify: a compact index estimates, it has nothing to certify")
        if self.layout.compact and device is not None:
            raise ValueError(f"device: a compact index has no vectors to put on {device}")
        state = self._state if where is None else self._state.only(_mask(where, self._state))
        vectors = self.layout.form(checked(queries, depth, "queries")[:, Tree(depth).level(chosen)])
        size = min(k, state.alive)
        if device is None or not size or not len(vectors):
            answers = _answers(vectors, chosen, size, self.layout, state, threads)
        else:
            answers = self._products(device).answers(
                vectors, chosen, size, self.layout, state.views, threads or PROCESSORS
            )
        numbers = np.array([a[0] for a in answers], np.int64).reshape(len(vectors), size)
        scores = np.array([a[1] for a in answers], np.float32).reshape(numbers.shape)
        return (numbers, scores, [a[2] for a in answers]) if certify else (numbers, scores)

    def _products(self, device: str) -> "Products":
        """The vectors on a device: one copy, made when it is first asked for."""
        from retreever.index.search.device_search import (
            Products,  # torch takes seconds to import, and most searches need none
        )

        if device not in self._devices:
            self._devices[device] = Products(device)
        return self._devices[device]

    def add(
        self,
        nodes: Float[np.ndarray, "passages nodes"],
        ids: Sequence[str],
        first: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Add passages; searches find them as soon as this returns, and they are on disk where the index is.

        Args:
            first: called with the number of the first of them when it is sure that they can be added and before they
                are, while nobody else may change the index; what it raises keeps them out.

        Returns:
            Their numbers.

        Raises:
            ValueError: the index is compact; an id that the index has, or twice; another number of ids than of
                passages; rows that are not node probabilities. Nothing is added then.
            BundleError: another process is changing the index's folder.
        """
        if self.layout.compact:
            raise ValueError("compact: an index of codes alone cannot grow; build it anew")
        with self._change() as state:
            _refuse_twice(ids)
            there = [name for name in ids if state.number(name) is not None]
            if there:
                raise ValueError(f"ids: the index has {there[0]!r} already; delete it first")
            codes = dict(state.codes)
            new = segments([nodes] if len(nodes) else [], ids, self.layout, codes, state.next)
            views = (*state.views, *(View.of(segment) for segment in new))
            if first is not None:
                first(state.next)
            self._become(State(views, codes, state.next + len(ids)))
        return np.arange(state.next, state.next + len(ids))

    def delete(self, ids: Sequence[str]) -> None:
        """Delete passages; searches that begin after this returns do not find them.

        Raises:
            ValueError: an id that the index does not have. Nothing is deleted then.
            BundleError: another process is changing the index's folder.
        """
        with self._change() as state:
            kept = np.ones(state.next, bool)
            kept[state.numbers_of(ids)] = False
            self._become(state.only(kept))

    @contextmanager
    def _change(self) -> Iterator[State]:
        with self._writing, index_store.writer(self._folder) if self._folder else nullcontext():
            if self._folder and self._stale(self._folder):
                raise BundleError(f"{self._folder}: another process has changed this index; refresh it first")
            yield self._state

    def _become(self, state: State) -> None:
        """Tidy a new state, put it on disk where the index is kept there, and let searches see it."""
        first = not self._state.codes
        state = State(tidied(state.views, self.layout, state.codes), state.codes, state.next)
        if self._folder:
            self._stored = index_store.publish(self._folder, self.layout, state, self._stored.names)
        self._state = state
        if first and state.codes:
            self._warm()

    def refresh(self) -> bool:
        """Take over what another process has changed in the index's folder; whether there was anything.

        Raises:
            BundleError: a file is missing or damaged; the index goes on with what it has.
        """
        if not self._folder or not self._stale(self._folder):  # no waiting for a change that this process is making
            return False
        with self._writing:
            if not self._stale(self._folder):
                return False
            _, self._state, self._stored = index_store.open_index(self._folder, mmap=True, checksums=False)
        return True

    def _stale(self, folder: Path) -> bool:
        return index_store.edition(folder) != self._stored.edition

    def stats(self) -> dict[str, Any]:
        """What it holds, what a passage costs, and how codes did on the sample that they were fitted to.

        A passage costs bytes in all, bytes that every search of a level reads, and bytes of a vector of a level.
        """
        state, layout = self._state, self.layout
        size = np.dtype(layout.dtype).itemsize
        stored = sum(view.segment.nbytes for view in state.views)
        coded = next((view.segment.codes for view in state.views if view.segment.codes), {})
        return {
            "documents": state.alive,
            "deleted": sum(len(view.segment) for view in state.views) - state.alive,
            "segments": len(state.views),
            "depth": layout.depth,
            "similarity": layout.similarity,
            "exact_hierarchy": layout.exact_hierarchy,
            "dtype": layout.dtype,
            "bytes_per_document": round(stored / max(1, sum(len(view.segment) for view in state.views)), 1),
            "compact": layout.compact,
            "bytes_scanned_by_level": {d: state.codes[d].bytes_scanned for d in coded},
            "bytes_per_document_by_level": {d: size * 2**d for d in range(1, layout.depth + 1)},
            "of_a_sample": {
                d: dict(zip(MEASURED, state.codes[d].measured.round(5).tolist(), strict=True)) for d in coded
            },
        }

    def save(self, folder: Path) -> None:
        """Write it to `folder`, whole or not at all. The index itself stays where it was."""
        with write_aside(folder) as aside:
            index_store.publish(aside, self.layout, self._state, {})

    @classmethod
    def load(cls, folder: Path, model: str | None = None, mmap: bool = True, checksums: bool = False) -> "TreeIndex":
        """Open an index.

        Args:
            model: digest of the model that will ask it; an index of another one is refused.
            mmap: map the arrays instead of reading them, so that processes of a machine share one copy.
            checksums: read every file and compare its digest; else only sizes are compared.

        Raises:
            BundleError: a file is missing, damaged or of another size, or the index was built for another model.
        """
        layout, state, stored = index_store.open_index(folder, mmap, checksums)
        if model is not None and model != layout.model:
            raise BundleError(f"{folder}: was built for model {layout.model[:16]}, it is asked by model {model[:16]}")
        return cls(layout, state, folder, stored)


def _answers(
    vectors: np.ndarray, level: int, k: int, layout: Layout, state: State, threads: int | None
) -> list[Answer]:
    """Answers to queries in stored form, in groups that threads take turns at."""
    if not k or not len(vectors):
        nothing = Evidence(layout.coded(level), 0, 0, 0, 0, -np.inf, -np.inf)
        return [(np.empty(0, np.int64), np.empty(0, np.float32), nothing) for _ in vectors]
    workers = min(len(vectors), threads or PROCESSORS)
    count = max(workers, -(-len(vectors) // TOGETHER))
    groups = np.array_split(vectors, count) if count > 1 else [vectors]

    def answers(group: np.ndarray) -> list[Answer]:
        return Search(group, level, k, layout, state.codes, state.views).answers()

    return [answer for part in side_by_side(answers, groups, workers) for answer in part]


def _mask(where: Where, state: State) -> np.ndarray:
    if isinstance(where, np.ndarray):
        if where.dtype != bool or where.shape != (state.next,):
            raise ValueError(
                f"where: must be ids or a bool for each of {state.next} numbers, got {where.shape} of {where.dtype}"
            )
        return where
    kept = np.zeros(state.next, bool)
    kept[state.numbers_of(where)] = True
    return kept


def _refuse_twice(ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"ids: {twice!r} is there twice")

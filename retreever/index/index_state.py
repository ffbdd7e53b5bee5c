"""What an index holds at one moment: its segments, which of their passages are alive, and the codes' settings."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool

from retreever.index.codes.passage_code import Code
from retreever.index.index_layout import Layout
from retreever.index.segment import Segment, View


@dataclass(frozen=True)
class State:
    """Never changed; a change of the index makes another.

    Attributes:
        views: segments in the order of their passages' numbers.
        codes: of every coded level; none while no segment has needed them.
        next: the number that the next passage added will have.
    """

    views: tuple[View, ...]
    codes: Mapping[int, Code]
    next: int

    @cached_property
    def alive(self) -> int:
        """How many passages are alive."""
        return sum(int(view.rows_alive.sum()) for view in self.views)

    def number(self, name: str) -> int | None:
        """Number of the living passage of that id; None where there is none."""
        for view in reversed(self.views):
            row = view.segment.row_of.get(name)
            if row is not None and view.rows_alive[row]:
                return int(view.segment.numbers[row])
        return None

    def named(self) -> Iterator[tuple[str, int]]:
        """Ids and numbers of the living, in order."""
        for view in self.views:
            for name, number, alive in zip(
                view.segment.ids, view.segment.numbers.tolist(), view.rows_alive.tolist(), strict=True
            ):
                if alive:
                    yield name, number

    def numbers_of(self, ids: Iterable[str]) -> np.ndarray:
        """Numbers of living passages.

        Raises:
            ValueError: an id that no living passage has.
        """
        found = {name: self.number(name) for name in ids}
        unknown = [name for name, number in found.items() if number is None]
        if unknown:
            raise ValueError(f"ids: the index has no {', '.join(map(repr, unknown[:3]))}" + _more(len(unknown) - 3))
        return np.array(list(found.values()), np.int64)

    def living(self) -> np.ndarray:
        """Numbers of the living, in order."""
        return np.concatenate([*(v.segment.numbers[v.rows_alive > 0] for v in self.views), np.empty(0, np.int64)])

    def vectors(self, numbers: np.ndarray, level: int, layout: Layout) -> np.ndarray:
        """Vectors of a level in stored form, float32, by number; zeros for a number that no passage has.

        Of a compact index they are what the codes stand for.
        """
        found = np.zeros((len(numbers), 2**level), np.float32)
        for view in self.views:
            rows = np.searchsorted(view.segment.numbers, numbers).clip(max=len(view.segment) - 1)
            here = view.segment.numbers[rows] == numbers
            if here.any():
                found[here] = layout.coarser(self._stored(view.segment, rows[here], level, layout), level)
        return found

    def _stored(self, segment: Segment, rows: np.ndarray, level: int, layout: Layout) -> np.ndarray:
        if not layout.compact:
            return segment.at(level)[rows].astype(np.float32)
        places = np.empty(len(segment), np.int64)
        places[segment.rows[segment.rows >= 0]] = np.flatnonzero(segment.rows >= 0)
        known = self.codes[layout.depth].decoded(segment.codes[layout.depth], places[rows])
        leaves = 2**layout.depth // known.shape[1]  # nTVD: of a node that bytes are kept of
        return np.repeat(known / np.float32(leaves), leaves, axis=1)

    def ids_of(self, numbers: Sequence[int] | np.ndarray) -> list[str]:
        """Ids by number.

        Raises:
            ValueError: a number that no passage has.
        """
        firsts = np.array([view.segment.numbers[0] for view in self.views])
        ids = []
        for number in numbers:
            view = self.views[max(0, int(np.searchsorted(firsts, number, side="right")) - 1)]
            row = int(np.searchsorted(view.segment.numbers, number))
            if row == len(view.segment) or view.segment.numbers[row] != number:
                raise ValueError(f"numbers: no passage has {number}")
            ids.append(view.segment.ids[row])
        return ids

    def only(self, kept: Bool[np.ndarray, " numbers"]) -> "State":
        """The state in which of the living only those remain whose number is marked."""
        views = tuple(
            View.of(view.segment, view.rows_alive.astype(bool) & kept[view.segment.numbers]) for view in self.views
        )
        return State(views, self.codes, self.next)


def _more(count: int) -> str:
    return f" and {count} others" if count > 0 else ""

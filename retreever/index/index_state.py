"""What an index holds at one moment: segments, which of their passages are alive, fitted codes.

A state is immutable. How it is searched and how it gets to disk are not known here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool

from retreever.index.codes.passage_code import PassageCode
from retreever.index.index_layout import ENCODINGS, Layout
from retreever.index.lexical.lexical_side import DEVIATION_SAMPLE, LexicalSide
from retreever.index.lexical.postings import Postings
from retreever.index.segment import Segment, SegmentView

IndexFilter = Bool[np.ndarray, " numbers"] | Sequence[str]  # a mask by number, or ids


@dataclass(frozen=True)
class IndexState:
    """Segments and codes; a change of the index makes a new state.

    Attributes:
        views: segments in the order of their passages' numbers.
        codes: by coded level; empty until a segment is large enough to need codes.
        next_number: the number that the next passage will get.
        lexical: constants of the lexical side; None where the index has none.
    """

    views: tuple[SegmentView, ...]
    codes: Mapping[int, PassageCode]
    next_number: int
    lexical: LexicalSide | None = None

    @cached_property
    def alive_count(self) -> int:
        """Number of passages that are alive."""
        return sum(int(view.rows_alive.sum()) for view in self.views)

    def find_number(self, name: str) -> int | None:
        """The number of the living passage with this id; None where there is none."""
        for view in reversed(self.views):
            row = view.segment.row_by_id.get(name)
            if row is not None and view.rows_alive[row]:
                return int(view.segment.numbers[row])
        return None

    def iterate_ids(self) -> Iterator[tuple[str, int]]:
        """Ids and numbers of the living passages, in the order of their numbers."""
        for view in self.views:
            for name, number, alive in zip(
                view.segment.ids, view.segment.numbers.tolist(), view.rows_alive.tolist(), strict=True
            ):
                if alive:
                    yield name, number

    def find_numbers(self, ids: Iterable[str]) -> np.ndarray:
        """Numbers of living passages by id.

        Raises:
            ValueError: no living passage has one of the ids.
        """
        numbers = {name: self.find_number(name) for name in ids}
        unknown = [name for name, number in numbers.items() if number is None]
        if unknown:
            raise ValueError(f"ids: the index has no {', '.join(map(repr, unknown[:3]))}" + _more(len(unknown) - 3))
        return np.array(list(numbers.values()), np.int64)

    def list_numbers(self) -> np.ndarray:
        """Numbers of the living passages, ascending."""
        return np.concatenate([*(v.segment.numbers[v.rows_alive > 0] for v in self.views), np.empty(0, np.int64)])

    def read_vectors(self, numbers: np.ndarray, level: int, layout: Layout) -> np.ndarray:
        """Vectors of a level in stored form, float32 (numbers, nodes); zeros for a number that no passage has.

        Of a compact index they are decoded from the codes.
        """
        vectors = np.zeros((len(numbers), 2**level), np.float32)
        for view in self.views:
            rows = np.searchsorted(view.segment.numbers, numbers).clip(max=len(view.segment) - 1)
            here = view.segment.numbers[rows] == numbers
            if here.any():
                stored = self._read_stored_vectors(view.segment, rows[here], level, layout)
                vectors[here] = layout.merge_to_level(stored, level)
        return vectors

    def measure_deviations(self, layout: Layout) -> "IndexState":
        """The state with the deviations of similarities between its passages, where it has a lexical side."""
        if self.lexical is None:
            return self
        numbers = self.list_numbers()
        chosen = numbers[np.linspace(0, len(numbers) - 1, min(len(numbers), DEVIATION_SAMPLE)).astype(int)]
        vectors = {level: self.read_vectors(chosen, level, layout) for level in layout.levels}
        if layout.encoding_dim:
            vectors[ENCODINGS] = self.read_encodings(chosen, layout)
        return replace(self, lexical=self.lexical.measure_deviations(vectors, layout))

    def read_encodings(self, numbers: np.ndarray, layout: Layout) -> np.ndarray:
        """Stored encodings, float32 (numbers, dim); zeros for a number that no passage has."""
        encodings = np.zeros((len(numbers), layout.encoding_dim), np.float32)
        for view in self.views:
            rows = np.searchsorted(view.segment.numbers, numbers).clip(max=len(view.segment) - 1)
            here = view.segment.numbers[rows] == numbers
            encodings[here] = view.segment.vectors[ENCODINGS][rows[here]]
        return encodings

    @property
    def postings(self) -> list[Postings]:
        """Posting lists of the segments; empty where the index has no lexical side."""
        return [view.segment.postings for view in self.views if view.segment.postings is not None]

    def _read_stored_vectors(self, segment: Segment, rows: np.ndarray, level: int, layout: Layout) -> np.ndarray:
        if not layout.compact:
            return segment.get_vectors(level)[rows].astype(np.float32)
        decoded = self.codes[layout.depth].decode(segment.codes[layout.depth], segment.place_by_row[rows])
        leaves = 2**layout.depth // decoded.shape[1]  # below each coded node, which nTVD may have fewer of
        return np.repeat(decoded / np.float32(leaves), leaves, axis=1)

    def find_ids(self, numbers: Sequence[int] | np.ndarray) -> list[str]:
        """Ids by number.

        Raises:
            ValueError: no passage has one of the numbers.
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

    def make_mask(self, where: IndexFilter) -> Bool[np.ndarray, " numbers"]:
        """A filter as a mask by number.

        Raises:
            ValueError: the mask has another length or type, or no living passage has one of the ids.
        """
        if isinstance(where, np.ndarray):
            if where.dtype != bool or where.shape != (self.next_number,):
                raise ValueError(
                    f"where: must be ids or a bool for each of {self.next_number} numbers, got {where.shape} of "
                    f"{where.dtype}"
                )
            return where
        mask = np.zeros(self.next_number, bool)
        mask[self.find_numbers(where)] = True
        return mask

    def restrict(self, kept: Bool[np.ndarray, " numbers"]) -> "IndexState":
        """The state in which only those living passages remain whose number is marked."""
        views = tuple(
            SegmentView.of(view.segment, view.rows_alive.astype(bool) & kept[view.segment.numbers])
            for view in self.views
        )
        return replace(self, views=views)


def _more(count: int) -> str:
    return f" and {count} others" if count > 0 else ""

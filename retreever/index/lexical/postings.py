"""Posting lists of a segment: which of its passages have a term, and the impact of the term in each.

An impact is what a word's count and the passage's length make of it in BM25, in steps of 1/255, without the rarity of
the word. The lists of a segment never change, while rarity follows the corpus. Texts and queries are not known here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retreever.index.kernels.posting_kernels import add_impacts, measure_postings, pack_keys, unpack_keys

LARGEST_IMPACT = 255


@dataclass(frozen=True)
class PassageWords:
    """Terms that occur in passages; one element a passage and term.

    Attributes:
        terms: uint64 (any,).
        rows: of the passages, int64 (any,).
        impacts: in [1, 255], uint8 (any,).
    """

    terms: np.ndarray
    rows: np.ndarray
    impacts: np.ndarray


@dataclass(frozen=True)
class Postings:
    """Posting lists, one term after the other; `posting_kernels` tells what a cell is.

    Attributes:
        terms: ascending, uint64 (terms,).
        first_cells: first cell of each term, then the number of cells, uint32 (terms + 1,).
        first_bytes: where the data of each term begin, uint32 (terms,).
        frequencies: passages that have the term, int32 (terms,).
        blocks: block of each cell, uint16 (cells,).
        counts: passages of each cell, uint8 (cells,); 128 where there are so many or more.
        data: uint8 (any,).
    """

    terms: np.ndarray
    first_cells: np.ndarray
    first_bytes: np.ndarray
    frequencies: np.ndarray
    blocks: np.ndarray
    counts: np.ndarray
    data: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays."""
        return sum(array.nbytes for array in vars(self).values())

    def find_terms(self, terms: np.ndarray) -> np.ndarray:
        """Numbers of terms, int64; -1 for one that no passage has."""
        if not len(self.terms):
            return np.full(len(terms), -1)
        places = np.searchsorted(self.terms, terms).clip(max=len(self.terms) - 1)
        return np.where(self.terms[places] == terms, places, -1)

    def count_passages(self, found: np.ndarray) -> np.ndarray:
        """Passages that have each term, by the numbers that `find_terms` returns."""
        return np.where(found < 0, 0, self.frequencies[found]) if len(self.terms) else np.zeros(len(found), np.int32)

    def add_scores(self, found: np.ndarray, weights: np.ndarray, added: np.ndarray) -> None:
        """Add weighted impacts of terms to the scores of the passages that have them.

        Args:
            found: as `find_terms` returns them.
            weights: float32 (terms,).
            added: by place, float32 (places,).
        """
        lists = (self.first_cells, self.first_bytes, self.blocks, self.counts, self.data)
        add_impacts(found, weights, *lists, added)

    def list_words(self, rows: np.ndarray) -> PassageWords:
        """What the lists were made of; `rows` has the row at each place."""
        keys = np.empty(int(self.frequencies.sum()), np.uint64)
        unpack_keys(self.first_cells, self.blocks, self.counts, self.data, keys)
        places = ((keys >> np.uint64(8)) & np.uint64(2**24 - 1)).astype(np.int64)
        return PassageWords(self.terms[keys >> np.uint64(32)], rows[places], keys.astype(np.uint8))


def make_postings(words: PassageWords, places: np.ndarray) -> Postings:
    """Posting lists of passages; `places` has the place of each row, int64 (rows,)."""
    terms, numbers = np.unique(words.terms, return_inverse=True)
    keys = numbers.astype(np.uint64) << np.uint64(32) | places[words.rows].astype(np.uint64) << np.uint64(8)
    keys |= words.impacts
    keys.sort()
    cells, size = measure_postings(keys)
    postings = Postings(
        terms,
        np.zeros(len(terms) + 1, np.uint32),
        np.zeros(len(terms), np.uint32),
        np.zeros(len(terms), np.int32),
        np.empty(cells, np.uint16),
        np.empty(cells, np.uint8),
        np.empty(size, np.uint8),
    )
    pack_keys(
        keys, postings.first_cells, postings.first_bytes, postings.frequencies, postings.blocks, postings.counts,
        postings.data,
    )  # fmt: skip
    return postings


def join_words(parts: Sequence[PassageWords]) -> PassageWords:
    """The words of several parts, one after the other."""
    names = PassageWords.__match_args__
    return PassageWords(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

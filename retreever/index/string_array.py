"""Many strings as one block of bytes and where each begins, so that a million of them open without being read."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np


class Names(Sequence[str]):
    """Strings by place.

    Args:
        letters: all of them in UTF-8, one after the other, uint8.
        starts: where each begins and the last ends, int64 (names + 1,).
    """

    def __init__(self, letters: np.ndarray, starts: np.ndarray):
        self.letters, self.starts = letters, starts

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """Pack strings."""
        parts = [name.encode() for name in names]
        starts = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=starts[1:])
        return cls(np.frombuffer(b"".join(parts), np.uint8), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, place: int) -> str:  # type: ignore[override]
        if not 0 <= place < len(self):
            raise IndexError(f"{place} is no place of {len(self)} names")
        return self.letters[self.starts[place] : self.starts[place + 1]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        letters, starts = self.letters.tobytes(), self.starts.tolist()
        return (letters[a:b].decode() for a, b in pairwise(starts))

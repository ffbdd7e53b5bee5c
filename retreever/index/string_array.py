"""Many strings as one array of bytes and offsets, so that a million open without being read."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np


class StringArray(Sequence[str]):
    """A sequence of strings.

    Args:
        letters: the strings in UTF-8, one after the other, uint8.
        starts: offset of each string, then the end of the last, int64 (strings + 1,).
    """

    def __init__(self, letters: np.ndarray, starts: np.ndarray):
        self.letters, self.starts = letters, starts

    @classmethod
    def pack(cls, names: Iterable[str]) -> "StringArray":
        """Pack strings in the order given."""
        parts = [name.encode() for name in names]
        starts = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=starts[1:])
        return cls(np.frombuffer(b"".join(parts), np.uint8), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> str:  # type: ignore[override]
        if not 0 <= row < len(self):
            raise IndexError(f"row {row}: must lie within [0, {len(self) - 1}]")
        return self.letters[self.starts[row] : self.starts[row + 1]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        letters, starts = self.letters.tobytes(), self.starts.tolist()
        return (letters[a:b].decode() for a, b in pairwise(starts))

"""The texts of an index by row: one JSON line each and where it begins, so that opening them reads no text.

    documents/documents.jsonl, offsets.npy   written once and sealed
              added.jsonl                    appended to while the index is live; its rows follow those of the others

The index's manifest says how many rows count. A text is on disk before the manifest that counts it, so every row that
counts is there whatever breaks off; lines beyond are of an addition that was broken off, and the next one overwrites
them.
"""

import json
import mmap
import os
import threading
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np

from retreever.data.dataset import Passage
from retreever.errors import BundleError
from retreever.system.files import flush, seal, unseal, write_aside

LINES, OFFSETS, ADDED = "documents.jsonl", "offsets.npy", "added.jsonl"


class Documents:
    """Passages by row, read from disk when asked for. Ask only for rows that the index counts.

    Attributes:
        sealed: how many rows were written at first.

    Raises:
        BundleError: a file is missing or of another size.
    """

    def __init__(self, folder: Path):
        unseal(folder, checksums=False)
        self._offsets = np.load(folder / OFFSETS)
        self.sealed = len(self._offsets) - 1
        self._lines = _mapped(folder / LINES)
        self._added = _Added(folder / ADDED)

    def __getitem__(self, row: int) -> Passage:
        if row >= self.sealed:
            return _read(self._added[row - self.sealed])
        return _read(self._lines[self._offsets[row] : self._offsets[row + 1]])

    def require(self, rows: int) -> None:
        """See that there are as many rows as the index counts.

        Raises:
            BundleError: there are more of those written at first, or fewer in all.
        """
        if self.sealed > rows or not self._added.holds(rows - self.sealed):
            short = self._added.path if self.sealed <= rows else self._added.path.with_name(LINES)
            raise BundleError(
                f"{short}: the index has {rows} passages, documents has {self.sealed + self._added.known}"
            )

    def add(self, passages: Iterable[Passage], rows: int) -> None:
        """Append passages; they are on disk when this returns, and count when the index says so.

        Args:
            rows: how many count so far; what was written beyond them is overwritten. Only who has the right to change
                the index may call this.

        Raises:
            BundleError: there are fewer.
        """
        self.require(rows)
        self._added.write([_line(passage) for passage in passages], rows - self.sealed)


class _Added:
    """Lines that are appended, and where each ends, as far as was asked; lines that may yet change are not known."""

    def __init__(self, path: Path):
        self.path, self._ends, self._reading = path, [0], threading.Lock()

    @property
    def known(self) -> int:
        return len(self._ends) - 1

    def holds(self, lines: int) -> bool:
        """Whether so many are there, each whole."""
        with self._reading:
            if lines > self.known and self.path.is_file():
                with open(self.path, "rb") as file:
                    file.seek(self._ends[-1])
                    for line in islice(file, lines - self.known):
                        if line.endswith(b"\n"):
                            self._ends.append(self._ends[-1] + len(line))
        return lines <= self.known

    def __getitem__(self, line: int) -> bytes:
        if not self.holds(line + 1):
            raise IndexError(f"{self.path}: has no line {line + 1}")
        start, end = self._ends[line], self._ends[line + 1]
        with open(self.path, "rb") as file:
            return os.pread(file.fileno(), end - start, start)

    def write(self, lines: list[bytes], after: int) -> None:
        with open(self.path, "ab") as file:
            file.truncate(self._ends[after])
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        flush(self.path.parent)


def _mapped(path: Path) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _line(passage: Passage) -> bytes:
    value = {"_id": passage.id, "title": passage.title, "text": passage.text, "metadata": passage.metadata}
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _read(line: bytes) -> Passage:
    value = json.loads(line)
    return Passage(value["_id"], value["text"], value["title"], value["metadata"])


def write_documents(passages: Iterable[Passage], folder: Path) -> None:
    """Write passages in row order to `folder`, whole or not at all."""
    with write_aside(folder) as aside:
        aside.mkdir()
        offsets = [0]
        with open(aside / LINES, "wb") as file:
            for passage in passages:
                offsets.append(offsets[-1] + file.write(_line(passage)))
        np.save(aside / OFFSETS, np.array(offsets, np.int64))
        seal(aside, {"format": 1, "count": len(offsets) - 1})

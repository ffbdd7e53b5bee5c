"""The texts of an index by row: one JSON line each, with offsets, so that opening reads no text.

    documents/documents.jsonl, offsets.npy   written once and sealed
              added.jsonl                    appended to while the index is live; its rows follow the sealed ones

The index's manifest says how many rows count. A text is on disk before the manifest that counts it, so every row that
counts is there even after a crash. Lines beyond that count come from an interrupted addition; the next addition
overwrites them. Vectors and searches are not known here.
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
from retreever.system.files import flush_to_disk, seal_folder, verify_sealed_folder, write_atomically

DOCUMENT_LINES_FILE, DOCUMENT_OFFSETS_FILE, ADDED_DOCUMENTS_FILE = "documents.jsonl", "offsets.npy", "added.jsonl"


class DocumentStore:
    """Passages by row, read from disk on access. Only rows that the index counts may be read.

    Attributes:
        sealed_count: rows that were written when the bundle was made.

    Raises:
        BundleError: a file is missing or of another size.
    """

    def __init__(self, folder: Path):
        verify_sealed_folder(folder, checksums=False)
        self._offsets = np.load(folder / DOCUMENT_OFFSETS_FILE)
        self.sealed_count = len(self._offsets) - 1
        self._lines = _map_file(folder / DOCUMENT_LINES_FILE)
        self._added = _AppendedLines(folder / ADDED_DOCUMENTS_FILE)

    def __getitem__(self, row: int) -> Passage:
        if row >= self.sealed_count:
            return _parse_line(self._added[row - self.sealed_count])
        return _parse_line(self._lines[self._offsets[row] : self._offsets[row + 1]])

    def require(self, rows: int) -> None:
        """Check that the store has the rows that the index counts.

        Raises:
            BundleError: more rows than that were sealed, or there are fewer in all.
        """
        if self.sealed_count > rows or not self._added.holds(rows - self.sealed_count):
            short = self._added.path if self.sealed_count <= rows else self._added.path.with_name(DOCUMENT_LINES_FILE)
            raise BundleError(
                f"{short}: the index has {rows} passages, documents has {self.sealed_count + self._added.known_lines}"
            )

    def add(self, passages: Iterable[Passage], rows: int) -> None:
        """Append passages. They are on disk when this returns, and count once the index's manifest says so.

        The caller must hold the index's write lock.

        Args:
            rows: rows that count so far; lines beyond them are overwritten.

        Raises:
            BundleError: there are fewer rows.
        """
        self.require(rows)
        self._added.write([_format_line(passage) for passage in passages], rows - self.sealed_count)


class _AppendedLines:
    """Lines of a growing file. Ends of lines are read as far as was asked, so lines that may yet change are unknown."""

    def __init__(self, path: Path):
        self.path, self._ends, self._reading = path, [0], threading.Lock()

    @property
    def known_lines(self) -> int:
        return len(self._ends) - 1

    def holds(self, lines: int) -> bool:
        """Whether the file has so many complete lines."""
        with self._reading:
            if lines > self.known_lines and self.path.is_file():
                with open(self.path, "rb") as file:
                    file.seek(self._ends[-1])
                    for line in islice(file, lines - self.known_lines):
                        if line.endswith(b"\n"):
                            self._ends.append(self._ends[-1] + len(line))
        return lines <= self.known_lines

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
        flush_to_disk(self.path.parent)


def _map_file(path: Path) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _format_line(passage: Passage) -> bytes:
    value = {"_id": passage.id, "title": passage.title, "text": passage.text, "metadata": passage.metadata}
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _parse_line(line: bytes) -> Passage:
    value = json.loads(line)
    return Passage(value["_id"], value["text"], value["title"], value["metadata"])


def write_documents(passages: Iterable[Passage], folder: Path) -> None:
    """Write passages in row order to `folder`, whole or not at all."""
    with write_atomically(folder) as aside:
        aside.mkdir()
        offsets = [0]
        with open(aside / DOCUMENT_LINES_FILE, "wb") as file:
            for passage in passages:
                offsets.append(offsets[-1] + file.write(_format_line(passage)))
        np.save(aside / DOCUMENT_OFFSETS_FILE, np.array(offsets, np.int64))
        seal_folder(aside, {"format": 1, "count": len(offsets) - 1})

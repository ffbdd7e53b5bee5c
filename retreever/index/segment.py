"""Some passages of an index, never changed once made: ids, vectors and codes.

An index is a list of segments, so that adding passages rewrites nothing and shards can be built side by side. Vectors
lie in the order the passages came in (*row* of the segment); codes lie in an order in which a strip of them holds
passages that are alike (*place*). A segment of few passages has no codes: scoring
them all costs less.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from retreever.errors import BundleError
from retreever.index.codes.passage_code import Code, Coded
from retreever.index.codes.passage_order import alike
from retreever.index.index_layout import Layout
from retreever.index.kernels.similarity_kernels import STRIP, widen_rows
from retreever.index.string_array import Names
from retreever.system.files import seal, unseal, write_aside
from retreever.system.threads import side_by_side

FLAT = 2_048  # a segment of fewer passages has no codes
LARGEST = 2**18  # passages of a segment; half a GiB of float16 at 1,024 leaves
CODE_FILES = tuple(Coded.__dataclass_fields__)
ORDERING = 32  # digits that places are ordered by
CHUNK = 1_024  # rows widened at once while a segment is made
CHUNKS = 16  # that a thread works on in the same room: fresh memory costs as much as what is done in it


@dataclass(frozen=True)
class Segment:
    """Passages with their vectors and codes.

    Attributes:
        numbers: of the passages in the index, int64 (rows,): the order in which they were added.
        ids: by row.
        vectors: in stored form, (rows, nodes), of every level that is kept in full; none in a compact index.
        rows: of every place, int32 (places,); places that fill up the last strip have -1.
        codes: of every coded level; none in a small segment.
    """

    numbers: np.ndarray
    ids: Names
    vectors: Mapping[int, np.ndarray]
    rows: np.ndarray
    codes: Mapping[int, Coded]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays."""
        return sum(array.nbytes for array in _arrays(self).values())

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Rows by id."""
        return {name: row for row, name in enumerate(self.ids)}

    def at(self, level: int) -> np.ndarray:
        """Vectors of the coarsest level kept in full that is not coarser than `level`."""
        return self.vectors[min(d for d in self.vectors if d >= level)]


@dataclass(frozen=True)
class View:
    """A segment and which of its passages count.

    Attributes:
        rows_alive: uint8 (rows,).
        places_alive: uint8 (places,).
    """

    segment: Segment
    rows_alive: np.ndarray
    places_alive: np.ndarray

    @classmethod
    def of(cls, segment: Segment, alive: np.ndarray | None = None) -> "View":
        """All passages of a segment, or those of which `alive`, bool (rows,), is true."""
        rows_alive = np.ones(len(segment), np.uint8) if alive is None else alive.astype(np.uint8)
        places = segment.rows >= 0
        return cls(segment, rows_alive, (rows_alive[segment.rows] * places).astype(np.uint8))


def make(
    numbers: np.ndarray,
    ids: Names,
    vectors: Mapping[int, np.ndarray],
    layout: Layout,
    codes: Mapping[int, Code],
) -> Segment:
    """A segment of vectors in stored form."""
    if len(numbers) < FLAT and not layout.compact:
        return Segment(numbers, ids, vectors, np.empty(0, np.int32), {})
    with threadpool_limits(1, user_api="blas"):  # chunks and levels are worked on side by side already
        encoded = _encoded(codes, vectors, layout)
        rows = _places(np.ascontiguousarray(encoded[max(encoded)][0][:, :ORDERING]))
        filled = np.where(rows < 0, len(numbers) - 1, rows)  # filling places repeat a row and are never alive
        laid = side_by_side(lambda d: codes[d].coded(*encoded[d], filled), layout.coded_levels)
    coded = dict(zip(layout.coded_levels, laid, strict=True))
    return Segment(numbers, ids, {} if layout.compact else vectors, rows, coded)


def _places(points: np.ndarray) -> np.ndarray:
    """Rows in the order of their places; the rest of the last strip is -1."""
    rows = np.full(-(-len(points) // STRIP) * STRIP, -1, np.int32)
    rows[: len(points)] = alike(points, STRIP)
    return rows


def _encoded(
    codes: Mapping[int, Code], vectors: Mapping[int, np.ndarray], layout: Layout
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Digits and terms of all rows, by coded level; groups of chunks side by side, each row widened once."""
    last, rows = max(vectors), len(vectors[max(vectors)])
    levels = sorted({last, *layout.coded_levels}, reverse=True)

    def encoded(first: int) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        room = {d: np.empty((CHUNK, 2**d), np.float32) for d in levels}
        group = range(first, min(first + CHUNK * CHUNKS, rows), CHUNK)
        return [chunk(slice(start, min(start + CHUNK, rows)), room) for start in group]

    def chunk(part: slice, room: Mapping[int, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        wide = {d: array[: part.stop - part.start] for d, array in room.items()}
        for finer, d in zip((0, *levels), levels, strict=False):
            if d in vectors:
                widen_rows(vectors[d][part], wide[d])
            else:
                layout.merge(wide[finer], wide[d])
        return [codes[d].encode(wide[d]) for d in layout.coded_levels]

    groups = side_by_side(encoded, range(0, rows, CHUNK * CHUNKS))
    by_level = zip(*(parts for group in groups for parts in group), strict=True)
    return {
        d: (np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts], axis=1))
        for d, parts in zip(layout.coded_levels, by_level, strict=True)
    }


def save(segment: Segment, folder: Path) -> None:
    """Write a segment to `folder`, whole or not at all."""
    with write_aside(folder) as aside:
        aside.mkdir()
        for name, array in _arrays(segment).items():
            np.save(aside / f"{name}.npy", array)
        seal(aside, {"passages": len(segment), "levels": list(segment.vectors), "coded": list(segment.codes)})


def _arrays(segment: Segment) -> dict[str, np.ndarray]:
    arrays = {
        "numbers": segment.numbers,
        "letters": segment.ids.letters,
        "starts": segment.ids.starts,
        "rows": segment.rows,
    }
    arrays |= {f"level_{d:02d}": vectors for d, vectors in segment.vectors.items()}
    for d, coded in segment.codes.items():
        arrays |= {f"code_{d:02d}_{name}": getattr(coded, name) for name in CODE_FILES}
    return arrays


def load(folder: Path, layout: Layout, mmap: bool, checksums: bool = False) -> Segment:
    """Open a segment; sizes are checked, contents only where `checksums`.

    Raises:
        BundleError: a file is missing, of another size, or does not hold what the index says.
    """
    manifest = unseal(folder, checksums=checksums)
    levels, coded = manifest.get("levels"), manifest.get("coded")
    if levels != ([] if layout.compact else list(layout.stored_levels)) or coded not in ([], list(layout.coded_levels)):
        raise BundleError(f"{folder}: holds levels {levels} and codes {coded}, the index has others")

    def opened(name: str) -> np.ndarray:
        return load_array(folder / f"{name}.npy", mmap)

    ids = Names(opened("letters"), opened("starts"))
    vectors = {d: opened(f"level_{d:02d}") for d in levels}
    for d, array in vectors.items():
        if array.shape != (len(ids), 2**d) or array.dtype != layout.dtype:
            raise BundleError(
                f"{folder / f'level_{d:02d}.npy'}: holds {array.shape} of {array.dtype}, "
                f"the index says {(len(ids), 2**d)} of {layout.dtype}"
            )
    codes = {d: Coded(*(opened(f"code_{d:02d}_{name}") for name in CODE_FILES)) for d in coded}
    return Segment(opened("numbers"), ids, vectors, opened("rows"), codes)


def load_array(path: Path, mmap: bool) -> np.ndarray:
    """Open an array of numbers.

    Raises:
        BundleError: the file holds none.
    """
    try:
        # A plain array: numpy's own class of mapped ones is slow to take parts of, and numba to recognise. Copied where
        # written to, which never happens: kernels are compiled for arrays that may be written, and need no others.
        array = np.asarray(np.load(path, mmap_mode="c" if mmap else None, allow_pickle=False))
    except (OSError, ValueError) as error:
        if mmap and path.is_file() and "empty" in str(error):  # an array of nothing cannot be mapped
            return load_array(path, mmap=False)
        raise BundleError(f"{path}: is no array of numbers ({error})") from None
    return array

"""A segment: some passages of an index with ids, vectors and codes, immutable once built.

An index is a list of segments, so that adding passages rewrites nothing and shards can be built in parallel. Vectors
lie in the order in which the passages came (*row* of the segment). Codes lie in blocks of passages that are alike
(*place*). A segment of few passages has no codes: scoring them all costs less. Which passages were deleted, and how
segments are searched, is not known here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from retreever.errors import BundleError
from retreever.index.codes.passage_code import PackedCodes, PassageCode
from retreever.index.codes.passage_order import order_by_similarity
from retreever.index.index_layout import ENCODINGS, Layout
from retreever.index.kernels.float16_kernels import widen_rows
from retreever.index.kernels.similarity_kernels import BLOCK_PASSAGES
from retreever.index.lexical.postings import PassageWords, Postings, make_postings
from retreever.index.string_array import StringArray
from retreever.system.files import seal_folder, verify_sealed_folder, write_atomically
from retreever.system.threads import map_in_threads

MIN_CODED_PASSAGES = 2_048  # a segment of fewer passages has no codes
MAX_SEGMENT_PASSAGES = 2**18  # passages of a segment; half a GiB of float16 at 1,024 leaves
PACKED_CODE_FILES = {  # on disk, by attribute of `PackedCodes`
    "blocks": "strips",
    "lower": "lower",
    "base": "base",
    "residuals": "beside",
    "units": "units",
    "centres": "centres",
}
ORDERING_DIGITS = 32  # digits of a code that passages are ordered by
ENCODING_CHUNK_ROWS = 1_024  # rows widened at once while a segment is built
ENCODING_CHUNKS_PER_TASK = 16  # chunks for which a thread reuses its buffers: fresh memory costs as much as the work


@dataclass(frozen=True)
class Segment:
    """Passages with their vectors and codes.

    Attributes:
        numbers: permanent numbers of the passages, int64 (rows,), ascending.
        ids: by row.
        vectors: in stored form, (rows, nodes), by level, and encodings, (rows, dim); empty in a compact index.
        rows: the row at each place, int32 (places,); -1 at places that fill up the last block.
        codes: by `layout.code_keys`; empty in a small segment.
        postings: of the passages' words, by place, which is the row in a segment without codes; None where the index
            has no lexical side.
    """

    numbers: np.ndarray
    ids: StringArray
    vectors: Mapping[int, np.ndarray]
    rows: np.ndarray
    codes: Mapping[int, PackedCodes]
    postings: Postings | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays."""
        return sum(array.nbytes for array in _segment_arrays(self).values())

    @cached_property
    def row_by_id(self) -> dict[str, int]:
        """Rows by id."""
        return {name: row for row, name in enumerate(self.ids)}

    @cached_property
    def place_by_row(self) -> np.ndarray:
        """The place of each row, int64 (rows,)."""
        return _invert_rows(self.row_by_place, len(self))

    @property
    def row_by_place(self) -> np.ndarray:
        """The row at each place, int32 (places,); of a segment without codes, the rows in order."""
        return self.rows if self.codes else np.arange(len(self), dtype=np.int32)

    def get_vectors(self, level: int) -> np.ndarray:
        """Vectors of `level` or, where it is not stored, of the nearest finer level that is."""
        return self.vectors[min(d for d in self.vectors if d >= level)]  # a level is at least 1, so never encodings


def as_kernel_array(vectors: np.ndarray) -> np.ndarray:
    """Stored vectors as the scoring kernels take them: float16 as uint16."""
    return vectors.view(np.uint16) if vectors.dtype == np.float16 else vectors


def _invert_rows(rows: np.ndarray, count: int) -> np.ndarray:
    places = np.empty(count, np.int64)
    places[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
    return places


@dataclass(frozen=True)
class SegmentView:
    """A segment, and which of its passages are alive.

    Attributes:
        rows_alive: 1 where the passage is alive, uint8 (rows,).
        places_alive: the same by place, uint8 (places,); 0 at places without a passage.
    """

    segment: Segment
    rows_alive: np.ndarray
    places_alive: np.ndarray

    @classmethod
    def of(cls, segment: Segment, alive: np.ndarray | None = None) -> "SegmentView":
        """A view of all passages of a segment, or of those where `alive`, bool (rows,), is true."""
        rows_alive = np.ones(len(segment), np.uint8) if alive is None else alive.astype(np.uint8)
        places = segment.rows >= 0
        return cls(segment, rows_alive, (rows_alive[segment.rows] * places).astype(np.uint8))


def make_segment(
    numbers: np.ndarray,
    ids: StringArray,
    vectors: Mapping[int, np.ndarray],
    layout: Layout,
    codes: Mapping[int, PassageCode],
    words: PassageWords | None = None,
) -> Segment:
    """Build a segment of vectors in stored form.

    Args:
        numbers: int64 (rows,), ascending.
        vectors: (rows, nodes) by stored level.
        codes: fitted codes by coded level; not used where the segment is too small for codes.
        words: of the passages, by row; None where the index has no lexical side.
    """
    if len(numbers) < MIN_CODED_PASSAGES and not layout.compact:
        postings = None if words is None else make_postings(words, np.arange(len(numbers)))
        return Segment(numbers, ids, vectors, np.empty(0, np.int32), {}, postings)
    with threadpool_limits(1, user_api="blas"):  # chunks and levels are encoded in parallel already
        encoded = _encode_rows(codes, vectors, layout)
        rows = _order_places(np.ascontiguousarray(encoded[max(encoded)][0][:, :ORDERING_DIGITS]))
        padded_rows = np.where(rows < 0, len(numbers) - 1, rows)  # padding repeats a row and is never alive
        packed = map_in_threads(lambda d: codes[d].pack(*encoded[d], padded_rows), layout.code_keys)
    coded = dict(zip(layout.code_keys, packed, strict=True))
    postings = None if words is None else make_postings(words, _invert_rows(rows, len(numbers)))
    return Segment(numbers, ids, {} if layout.compact else vectors, rows, coded, postings)


def _order_places(points: np.ndarray) -> np.ndarray:
    """Rows in the order of their places; the rest of the last block is -1."""
    rows = np.full(-(-len(points) // BLOCK_PASSAGES) * BLOCK_PASSAGES, -1, np.int32)
    rows[: len(points)] = order_by_similarity(points, BLOCK_PASSAGES)
    return rows


def _encode_rows(
    codes: Mapping[int, PassageCode], vectors: Mapping[int, np.ndarray], layout: Layout
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Digits and terms of all rows by coded level; groups of chunks run in parallel, and each row is widened once."""
    last, rows = max(vectors), len(vectors[max(vectors)])
    levels = sorted({last, *layout.coded_levels}, reverse=True)

    def encode_group(first: int) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        buffers = {d: np.empty((ENCODING_CHUNK_ROWS, 2**d), np.float32) for d in levels}
        group = range(first, min(first + ENCODING_CHUNK_ROWS * ENCODING_CHUNKS_PER_TASK, rows), ENCODING_CHUNK_ROWS)
        return [encode_chunk(slice(start, min(start + ENCODING_CHUNK_ROWS, rows)), buffers) for start in group]

    def encode_chunk(part: slice, buffers: Mapping[int, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        wide = {d: array[: part.stop - part.start] for d, array in buffers.items()}
        for finer, d in zip((0, *levels), levels, strict=False):
            if d in vectors:
                widen_rows(vectors[d][part], wide[d])
            else:
                layout.merge_into(wide[finer], wide[d])
        encoded = [codes[d].encode(wide[d]) for d in layout.coded_levels]
        if layout.encoding_dim:
            encoded.append(codes[ENCODINGS].encode(vectors[ENCODINGS][part].astype(np.float32)))
        return encoded

    groups = map_in_threads(encode_group, range(0, rows, ENCODING_CHUNK_ROWS * ENCODING_CHUNKS_PER_TASK))
    by_level = zip(*(parts for group in groups for parts in group), strict=True)
    return {
        d: (np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts], axis=1))
        for d, parts in zip(layout.code_keys, by_level, strict=True)
    }


def save_segment(segment: Segment, folder: Path) -> None:
    """Write a segment to `folder`, whole or not at all."""
    with write_atomically(folder) as aside:
        aside.mkdir()
        for name, array in _segment_arrays(segment).items():
            np.save(aside / f"{name}.npy", array)
        holds = {"passages": len(segment), "levels": list(segment.vectors), "coded": list(segment.codes)}
        seal_folder(aside, holds | {"words": segment.postings is not None})


def _segment_arrays(segment: Segment) -> dict[str, np.ndarray]:
    arrays = {
        "numbers": segment.numbers,
        "letters": segment.ids.letters,
        "starts": segment.ids.starts,
        "rows": segment.rows,
    }
    arrays |= {f"level_{d:02d}": vectors for d, vectors in segment.vectors.items()}
    for d, coded in segment.codes.items():
        arrays |= {f"code_{d:02d}_{file}": getattr(coded, name) for name, file in PACKED_CODE_FILES.items()}
    if segment.postings is not None:
        arrays |= {f"words_{name}": array for name, array in vars(segment.postings).items()}
    return arrays


def load_segment(folder: Path, layout: Layout, mmap: bool, checksums: bool = False) -> Segment:
    """Open a segment and check the sizes of its files.

    Args:
        checksums: also read every file and compare its digest.

    Raises:
        BundleError: a file is missing or damaged, or does not hold what the layout says.
    """
    manifest = verify_sealed_folder(folder, checksums=checksums)
    levels, coded = manifest.get("levels"), manifest.get("coded")
    if levels != ([] if layout.compact else list(layout.vector_widths)) or coded not in ([], list(layout.code_keys)):
        raise BundleError(f"{folder}: holds levels {levels} and codes {coded}, the index has others")

    def open_array(name: str) -> np.ndarray:
        return load_array(folder / f"{name}.npy", mmap)

    ids = StringArray(open_array("letters"), open_array("starts"))
    vectors = {d: open_array(f"level_{d:02d}") for d in levels}
    for d, array in vectors.items():
        width = layout.vector_widths[d]
        if array.shape != (len(ids), width) or array.dtype != layout.dtype:
            raise BundleError(
                f"{folder / f'level_{d:02d}.npy'}: holds {array.shape} of {array.dtype}, "
                f"the index says {(len(ids), width)} of {layout.dtype}"
            )
    codes = {
        d: PackedCodes(**{name: open_array(f"code_{d:02d}_{file}") for name, file in PACKED_CODE_FILES.items()})
        for d in coded
    }
    postings = None
    if manifest.get("words"):
        postings = Postings(*(open_array(f"words_{name}") for name in Postings.__match_args__))
    return Segment(open_array("numbers"), ids, vectors, open_array("rows"), codes, postings)


def load_array(path: Path, mmap: bool) -> np.ndarray:
    """Open an array of numbers; a mapped one must not be written to.

    Raises:
        BundleError: the file holds no such array.
    """
    try:
        # A plain array, since numpy.memmap is slow to slice, and slow for numba to recognise. Mapped as copy-on-write,
        # so that numba sees a writable array and compiles one variant of each kernel; nobody writes.
        array = np.asarray(np.load(path, mmap_mode="c" if mmap else None, allow_pickle=False))
    except (OSError, ValueError) as error:
        if mmap and path.is_file() and "empty" in str(error):  # an empty array cannot be mapped
            return load_array(path, mmap=False)
        raise BundleError(f"{path}: is no array of numbers ({error})") from None
    return array

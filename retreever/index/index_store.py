"""An index on disk: a manifest, segments that never change, and the fitted codes.

    index/manifest.json          layout, segments, the next number, constants of the lexical side
          codes/level_10_basis.npy ...
          segments/NAME/*.npy    sealed with sizes and checksums
          deleted/NAME.npy       numbers of deleted passages whose segment has not been rewritten yet
          writer.lock            locked by the process that changes the index

A new manifest replaces the old one when everything it names is in place. A file that it does not name comes from an
interrupted change; the next change removes it. Searches are not known here.
"""

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from retreever.errors import BundleError
from retreever.index import segment as segments
from retreever.index.build.segment_builder import choose_code_at
from retreever.index.codes.passage_code import PassageCode
from retreever.index.index_layout import Layout
from retreever.index.index_state import IndexState
from retreever.index.lexical.lexical_side import LexicalSide
from retreever.index.segment import Segment, SegmentView
from retreever.system.files import (
    flush_to_disk,
    read_json,
    seal_folder,
    verify_sealed_folder,
    write_atomically,
    write_json,
)

INDEX_FORMAT = 3
INDEX_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class StoredIndex:
    """Where a state lies on disk.

    Attributes:
        segment_names: folder names of its segments, by the segment object's `id`.
        edition: distinguishes this state of the folder from any other.
    """

    segment_names: Mapping[int, str] = field(default_factory=dict)
    edition: tuple[Any, ...] = ()


@contextmanager
def lock_for_writing(folder: Path) -> Iterator[None]:
    """Lock an index for changes; the operating system releases the lock when the process ends, however it ends.

    Raises:
        BundleError: another process is changing the index; there is no waiting.
    """
    try:  # never the soft lock, which outlives a killed process
        lock = FileLock(folder / "writer.lock", timeout=0, fallback_to_soft=False).acquire()
    except Timeout:
        raise BundleError(f"{folder}: another process is changing this index") from None
    with lock:
        yield


def store_segment(folder: Path, layout: Layout, segment: Segment, name: str = "") -> tuple[str, Segment]:
    """Write a segment into an index that is being built; returns its name, and the segment mapped from disk."""
    name = name or uuid.uuid4().hex
    segments.save_segment(segment, folder / "segments" / name)
    return name, segments.load_segment(folder / "segments" / name, layout, mmap=True)


def find_stored_segment(folder: Path, layout: Layout, name: str) -> Segment | None:
    """Map a segment that an earlier call wrote, and compare its checksums; None if it is missing or damaged."""
    try:
        return segments.load_segment(folder / "segments" / name, layout, mmap=True, checksums=True)
    except BundleError:
        return None


def finish_index(
    folder: Path,
    layout: Layout,
    segment_names: Sequence[str],
    codes: Mapping[int, PassageCode],
    lexical: LexicalSide | None = None,
) -> None:
    """Write the manifest of segments that are on disk already, named in the order of their passages' numbers.

    Args:
        lexical: what the segments' words were weighed with; its deviations are measured here.
    """
    segments_by_name = {
        name: segments.load_segment(folder / "segments" / name, layout, mmap=True) for name in segment_names
    }
    count = sum(len(segment) for segment in segments_by_name.values())
    views = tuple(SegmentView.of(segment) for segment in segments_by_name.values())
    state = IndexState(views, codes, count, lexical).measure_deviations(layout)
    publish_state(folder, layout, state, {id(segment): name for name, segment in segments_by_name.items()})


def read_edition(folder: Path) -> tuple[Any, ...]:
    """Edition of the state on disk now; see `StoredIndex`."""
    return _make_edition(read_json(folder / INDEX_MANIFEST))


def _make_edition(manifest: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(manifest.get("segments", [])), manifest.get("deleted"), manifest.get("next")


def publish_state(folder: Path, layout: Layout, state: IndexState, stored_names: Mapping[int, str]) -> StoredIndex:
    """Write the new segments and codes of a state, then the manifest. A loss of power does not undo it.

    Args:
        stored_names: of the segments that are on disk already; see `StoredIndex`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if state.codes and not (folder / "codes").is_dir():
        _save_codes(folder / "codes", state)
    names = {}
    for view in state.views:
        key = id(view.segment)
        names[key] = stored_names.get(key) or uuid.uuid4().hex
        if key not in stored_names:
            segments.save_segment(view.segment, folder / "segments" / names[key])
            _flush_folder(folder / "segments" / names[key])
    values = {
        "format": INDEX_FORMAT,
        **vars(layout),
        "segments": [names[id(view.segment)] for view in state.views],
        "passages": [len(view.segment) for view in state.views],
        "deleted": _save_deleted(folder / "deleted", state),
        "next": state.next_number,
    }
    if state.lexical is not None:
        values["lexical"] = state.lexical.to_json()
    flush_to_disk(folder)
    write_json(folder / INDEX_MANIFEST, values, durable=True)
    _remove_unnamed(folder, set(names.values()), values["deleted"])
    return StoredIndex(names, _make_edition(values))


def _save_codes(folder: Path, state: IndexState) -> None:
    with write_atomically(folder) as aside:
        aside.mkdir()
        for level, code in state.codes.items():
            for name in code.files:
                np.save(aside / f"level_{level:02d}_{name}.npy", getattr(code, name))
        seal_folder(aside, {"levels": list(state.codes)})
    _flush_folder(folder)


def _save_deleted(folder: Path, state: IndexState) -> str | None:
    dead = [view.segment.numbers[view.rows_alive == 0] for view in state.views]
    numbers = np.concatenate([*dead, np.empty(0, np.int64)])
    if not len(numbers):
        return None
    name = uuid.uuid4().hex
    with write_atomically(folder / f"{name}.npy") as aside, open(aside, "wb") as file:
        np.save(file, numbers)
        file.flush()
        os.fsync(file.fileno())
    flush_to_disk(folder)
    return name


def _flush_folder(folder: Path) -> None:
    for path in (*folder.iterdir(), folder, folder.parent):
        flush_to_disk(path)


def _remove_unnamed(folder: Path, named: set[str], deleted: str | None) -> None:
    for path in (folder / "segments").glob("*"):
        if path.name not in named:
            shutil.rmtree(path, ignore_errors=True)
    for path in (folder / "deleted").glob("*"):
        if path.stem != deleted:
            path.unlink(missing_ok=True)


def open_index(folder: Path, mmap: bool, checksums: bool) -> tuple[Layout, IndexState, StoredIndex]:
    """Read an index; read again if another process changed it meanwhile.

    Raises:
        BundleError: a file is missing, damaged or of another size, or the index has another format.
    """
    manifest = read_json(folder / INDEX_MANIFEST)
    try:
        return _read_index(folder, manifest, mmap, checksums)
    except BundleError:
        if read_json(folder / INDEX_MANIFEST) == manifest:
            raise
        return open_index(folder, mmap, checksums)


def _read_index(
    folder: Path, manifest: dict[str, Any], mmap: bool, checksums: bool
) -> tuple[Layout, IndexState, StoredIndex]:
    layout, lexical = _read_layout(folder, manifest), _read_lexical(folder, manifest)
    dead = np.zeros(manifest["next"], bool)
    if manifest["deleted"] is not None:
        dead[segments.load_array(folder / "deleted" / f"{manifest['deleted']}.npy", mmap=False)] = True
    views, names = [], {}
    for name, passages in zip(manifest["segments"], manifest["passages"], strict=True):
        segment = segments.load_segment(folder / "segments" / name, layout, mmap, checksums)
        if lexical is not None and segment.postings is None:
            raise BundleError(f"{folder / 'segments' / name}: has no posting lists, the index has a lexical side")
        if len(segment) != passages:
            raise BundleError(f"{folder / 'segments' / name}: holds {len(segment)} passages, the index says {passages}")
        views.append(SegmentView.of(segment, ~dead[segment.numbers]))
        names[id(segment)] = name
    state = IndexState(tuple(views), _read_codes(folder, layout, checksums), manifest["next"], lexical)
    return layout, state, StoredIndex(names, _make_edition(manifest))


def _read_layout(folder: Path, manifest: dict[str, Any]) -> Layout:
    if manifest.get("format") != INDEX_FORMAT:
        raise BundleError(f"{folder}: index format {manifest.get('format')}, this version reads {INDEX_FORMAT}")
    manifest = {"encoding_dim": 0, **manifest}  # earlier versions do not name it
    wanted = [*Layout.__dataclass_fields__, "segments", "passages", "deleted", "next"]
    missing = [name for name in wanted if name not in manifest]
    if missing:
        raise BundleError(f"{folder / INDEX_MANIFEST}: says nothing about {', '.join(missing)}")
    return Layout(**{name: manifest[name] for name in Layout.__dataclass_fields__})


def _read_lexical(folder: Path, manifest: dict[str, Any]) -> LexicalSide | None:
    values = manifest.get("lexical")  # not there in an index without a lexical side, or of an earlier version
    if values is None:
        return None
    try:
        return LexicalSide.from_json(values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{folder / INDEX_MANIFEST}: lexical: cannot be read ({error!r})") from None


def _read_codes(folder: Path, layout: Layout, checksums: bool) -> dict[int, PassageCode]:
    if not (folder / "codes").is_dir():
        return {}
    verify_sealed_folder(folder / "codes", checksums=checksums)

    def load_setting(level: int, name: str) -> np.ndarray:
        return segments.load_array(folder / "codes" / f"level_{level:02d}_{name}.npy", mmap=False)

    kinds = {d: choose_code_at(layout, d) for d in layout.code_keys}
    return {d: kind(*(load_setting(d, name) for name in kind.files)) for d, kind in kinds.items()}

"""An index on disk: `manifest.json` names the segments and what was deleted; `codes/` has the codes' settings.

    index/manifest.json          what the index is for, its segments, the next number
          codes/level_10_basis.npy ...
          segments/NAME/*.npy    sealed with sizes and checksums
          deleted/NAME.npy       numbers of passages that are deleted and not yet left out of their segment

The manifest is renamed over the old one when everything it names is in place. What it does not name is left from an
interrupted change, and removed by the next one.
"""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from retreever.errors import BundleError
from retreever.index import segment as segments
from retreever.index.build.segment_builder import code_for
from retreever.index.codes.passage_code import Code
from retreever.index.index_layout import Layout
from retreever.index.index_state import State
from retreever.index.segment import Segment, View
from retreever.system.files import flush, read_json, seal, unseal, write_aside, write_json

FORMAT = 3
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Stored:
    """Where a state lies on disk.

    Attributes:
        names: of its segments, by identity.
        edition: what tells this state of the folder from any other.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    edition: tuple[Any, ...] = ()


@contextmanager
def writer(folder: Path) -> Iterator[None]:
    """The right to change an index.

    Raises:
        BundleError: another process is changing it.
    """
    with open(folder / "writer.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BundleError(f"{folder}: another process is changing this index") from None
        yield


def keep(folder: Path, layout: Layout, segment: Segment, name: str = "") -> tuple[str, Segment]:
    """Write a segment into an index that is being made; returns its name, and the segment as mapped from disk."""
    name = name or uuid.uuid4().hex
    segments.save(segment, folder / "segments" / name)
    return name, segments.load(folder / "segments" / name, layout, mmap=True)


def kept(folder: Path, layout: Layout, name: str) -> Segment | None:
    """A segment that was written whole before, with its checksums compared; None where there is none."""
    try:
        return segments.load(folder / "segments" / name, layout, mmap=True, checksums=True)
    except BundleError:
        return None


def finish(folder: Path, layout: Layout, names: Sequence[str], codes: Mapping[int, Code]) -> None:
    """Make an index of segments that were written one by one, in the order of their passages' numbers."""
    opened = {name: segments.load(folder / "segments" / name, layout, mmap=True) for name in names}
    count = sum(len(segment) for segment in opened.values())
    state = State(tuple(View.of(segment) for segment in opened.values()), codes, count)
    publish(folder, layout, state, {id(segment): name for name, segment in opened.items()})


def edition(folder: Path) -> tuple[Any, ...]:
    """What tells one state of an index on disk from another."""
    return _edition(read_json(folder / MANIFEST))


def _edition(manifest: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(manifest.get("segments", [])), manifest.get("deleted"), manifest.get("next")


def publish(folder: Path, layout: Layout, state: State, names: Mapping[int, str]) -> Stored:
    """Write what is new of a state, then the manifest.

    Args:
        names: of the segments that are on disk already, by identity.

    Returns:
        Where the state lies now; a loss of power does not undo it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if state.codes and not (folder / "codes").is_dir():
        _save_codes(folder / "codes", state)
    now = {}
    for view in state.views:
        key = id(view.segment)
        now[key] = names.get(key) or uuid.uuid4().hex
        if key not in names:
            segments.save(view.segment, folder / "segments" / now[key])
            _flush(folder / "segments" / now[key])
    values = {
        "format": FORMAT,
        **vars(layout),
        "segments": [now[id(view.segment)] for view in state.views],
        "passages": [len(view.segment) for view in state.views],
        "deleted": _save_deleted(folder / "deleted", state),
        "next": state.next,
    }
    flush(folder)
    write_json(folder / MANIFEST, values, durable=True)
    _clean(folder, set(now.values()), values["deleted"])
    return Stored(now, _edition(values))


def _save_codes(folder: Path, state: State) -> None:
    with write_aside(folder) as aside:
        aside.mkdir()
        for level, code in state.codes.items():
            for name in code.files:
                np.save(aside / f"level_{level:02d}_{name}.npy", getattr(code, name))
        seal(aside, {"levels": list(state.codes)})
    _flush(folder)


def _save_deleted(folder: Path, state: State) -> str | None:
    dead = [view.segment.numbers[view.rows_alive == 0] for view in state.views]
    numbers = np.concatenate([*dead, np.empty(0, np.int64)])
    if not len(numbers):
        return None
    name = uuid.uuid4().hex
    with write_aside(folder / f"{name}.npy") as aside, open(aside, "wb") as file:
        np.save(file, numbers)
        file.flush()
        os.fsync(file.fileno())
    flush(folder)
    return name


def _flush(folder: Path) -> None:
    for path in (*folder.iterdir(), folder, folder.parent):
        flush(path)


def _clean(folder: Path, kept: set[str], deleted: str | None) -> None:
    for path in (folder / "segments").glob("*"):
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)
    for path in (folder / "deleted").glob("*"):
        if path.stem != deleted:
            path.unlink(missing_ok=True)


def open_index(folder: Path, mmap: bool, checksums: bool) -> tuple[Layout, State, Stored]:
    """Read an index; once more where it was changed meanwhile.

    Raises:
        BundleError: a file is missing, damaged or of another size, or the format is another.
    """
    manifest = read_json(folder / MANIFEST)
    try:
        return _opened(folder, manifest, mmap, checksums)
    except BundleError:
        if read_json(folder / MANIFEST) == manifest:
            raise
        return open_index(folder, mmap, checksums)


def _opened(folder: Path, manifest: dict[str, Any], mmap: bool, checksums: bool) -> tuple[Layout, State, Stored]:
    layout = _layout(folder, manifest)
    dead = np.zeros(manifest["next"], bool)
    if manifest["deleted"] is not None:
        dead[segments.load_array(folder / "deleted" / f"{manifest['deleted']}.npy", mmap=False)] = True
    views, names = [], {}
    for name, passages in zip(manifest["segments"], manifest["passages"], strict=True):
        segment = segments.load(folder / "segments" / name, layout, mmap, checksums)
        if len(segment) != passages:
            raise BundleError(f"{folder / 'segments' / name}: holds {len(segment)} passages, the index says {passages}")
        views.append(View.of(segment, ~dead[segment.numbers]))
        names[id(segment)] = name
    state = State(tuple(views), _codes(folder, layout, checksums), manifest["next"])
    return layout, state, Stored(names, _edition(manifest))


def _layout(folder: Path, manifest: dict[str, Any]) -> Layout:
    if manifest.get("format") != FORMAT:
        raise BundleError(f"{folder}: index format {manifest.get('format')}, this version reads {FORMAT}")
    wanted = [*Layout.__dataclass_fields__, "segments", "passages", "deleted", "next"]
    missing = [name for name in wanted if name not in manifest]
    if missing:
        raise BundleError(f"{folder / MANIFEST}: says nothing about {', '.join(missing)}")
    return Layout(**{name: manifest[name] for name in Layout.__dataclass_fields__})


def _codes(folder: Path, layout: Layout, checksums: bool) -> dict[int, Code]:
    if not (folder / "codes").is_dir():
        return {}
    unseal(folder / "codes", checksums=checksums)
    kind = code_for(layout.similarity)

    def setting(level: int, name: str) -> np.ndarray:
        return segments.load_array(folder / "codes" / f"level_{level:02d}_{name}.npy", mmap=False)

    return {d: kind(*(setting(d, name) for name in kind.files)) for d in layout.coded_levels}

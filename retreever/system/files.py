"""Files that are either whole or absent: written aside, then renamed. Checksums, JSON."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retreever.errors import BundleError


@contextmanager
def write_aside(target: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a path beside `target` to write a file or fill a folder at; rename it to `target` on success.

    Nothing is left behind when the body raises, and a reader never sees a half-written `target`.
    An existing `target` is replaced: a file atomically, a folder by two renames.

    Args:
        replace: false leaves a folder that somebody else has put at `target` meanwhile as it is.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        yield aside
        if replace:
            _swap(aside, target)
        else:
            _settle(aside, target)
    finally:
        _remove(aside)


def _settle(aside: Path, target: Path) -> None:
    try:
        os.rename(aside, target)
    except OSError:
        if not target.is_dir():
            raise


def _swap(aside: Path, target: Path) -> None:
    if not target.is_dir():
        os.replace(aside, target)
        return
    old = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.old"
    os.rename(target, old)
    os.rename(aside, target)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk itself before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Short stable digest (16 hex digits) of a JSON-able value: same value, same digest, on any machine.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Write `value` as indented UTF-8 JSON, whole or not at all.

    Args:
        durable: it outlives a loss of power from the moment this returns.
    """
    with write_aside(path) as aside:
        aside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if durable:
            flush(aside)
    if durable:
        flush(path.parent)


def read_json(path: Path) -> Any:
    """Read a JSON file that we wrote.

    Raises:
        BundleError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path}: file is missing") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: not valid JSON ({error})") from None


def inventory(folder: Path, manifest: str | None = None) -> dict[str, dict[str, Any]]:
    """Size and checksum of every file in `folder`, by its path there.

    Args:
        manifest: name of a file that is not listed; a folder inside that has one of its own is left to it.
    """
    sealed = {path.parent for path in folder.rglob(manifest)} - {folder} if manifest else set()
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != manifest and not sealed.intersection(path.parents)
    }


def unsealed(
    folder: Path, listed: Mapping[str, Mapping[str, Any]], checksums: bool | Collection[str] = True
) -> Iterator[str]:
    """What is wrong with the files of an inventory, one sentence a file.

    Args:
        checksums: read every file again, or those named, and compare digests; of the others sizes are compared.
    """
    for relative, expected in listed.items():
        path = folder / relative
        checked = checksums if isinstance(checksums, bool) else relative in checksums
        if not path.is_file():
            yield f"{path}: file is missing, though it is listed"
        elif path.stat().st_size != expected["bytes"]:
            yield f"{path}: {path.stat().st_size} bytes, {expected['bytes']} are listed"
        elif checked and sha256(path) != expected["sha256"]:
            yield f"{path}: checksum differs from the one listed; the file is damaged"


def seal(folder: Path, manifest: dict[str, Any], name: str = "manifest.json") -> None:
    """Write `manifest` into `folder` together with the size and checksum of every file there.

    A folder inside that has such a manifest of its own is left to it.
    """
    write_json(folder / name, {**manifest, "files": inventory(folder, name)})


def unseal(folder: Path, name: str = "manifest.json", checksums: bool | Collection[str] = True) -> dict[str, Any]:
    """Read the manifest of a sealed folder and check every file it names.

    Args:
        checksums: read every file again, or those named, and compare digests; of the others sizes are compared.

    Raises:
        BundleError: a file is missing, of another size or of another content; the message names it.
    """
    manifest: dict[str, Any] = read_json(Path(folder) / name)
    fault = next(unsealed(Path(folder), manifest.get("files", {}), checksums), None)
    if fault:
        raise BundleError(fault)
    return manifest

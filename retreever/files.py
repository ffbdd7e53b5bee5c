"""Files that are either whole or absent: written aside, then renamed. Checksums, JSON."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retreever.errors import BundleError


@contextmanager
def write_aside(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write a file or fill a folder at; rename it to `target` on success.

    Nothing is left behind when the body raises, and a reader never sees a half-written `target`.
    An existing `target` is replaced: a file atomically, a folder by two renames.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        yield aside
        _swap(aside, target)
    finally:
        _remove(aside)


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


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, whole or not at all."""
    with write_aside(path) as aside:
        aside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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


def seal(folder: Path, manifest: dict[str, Any], name: str = "manifest.json") -> None:
    """Write `manifest` into `folder` together with the size and checksum of every file there.

    A folder inside that has such a manifest of its own is left to it.
    """
    sealed = {path.parent for path in folder.rglob(name)} - {folder}
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != name and not sealed.intersection(path.parents)
    }
    write_json(folder / name, {**manifest, "files": files})


def unseal(folder: Path, name: str = "manifest.json", checksums: bool | Collection[str] = True) -> dict[str, Any]:
    """Read the manifest of a sealed folder and check every file it names.

    Args:
        checksums: read every file again, or those named, and compare digests; of the others sizes are compared.

    Raises:
        BundleError: a file is missing, of another size or of another content; the message names it.
    """
    manifest = read_json(Path(folder) / name)
    for relative, expected in manifest.get("files", {}).items():
        path = Path(folder) / relative
        if not path.is_file():
            raise BundleError(f"{path}: file is missing, though {name} names it")
        if path.stat().st_size != expected["bytes"]:
            raise BundleError(f"{path}: {path.stat().st_size} bytes, {name} says {expected['bytes']}")
        checked = checksums if isinstance(checksums, bool) else relative in checksums
        if checked and sha256(path) != expected["sha256"]:
            raise BundleError(f"{path}: checksum differs from {name}; the file is damaged")
    return manifest

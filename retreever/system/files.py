"""Files that are whole or absent (written aside, then renamed), checksums of folders, and JSON."""

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
def write_atomically(target: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a path next to `target` for a new file or folder; rename it to `target` on success.

    Where the body raises, nothing remains. A reader never sees a half-written `target`. An existing `target` is
    replaced: a file atomically, a folder by two renames.

    Args:
        replace: false keeps a folder that another process has put at `target` meanwhile.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        yield aside
        if replace:
            _replace_target(aside, target)
        else:
            _rename_unless_present(aside, target)
    finally:
        _remove(aside)


def _rename_unless_present(aside: Path, target: Path) -> None:
    try:
        os.rename(aside, target)
    except OSError:
        if not target.is_dir():
            raise


def _replace_target(aside: Path, target: Path) -> None:
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


def flush_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def hash_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(value: Any) -> str:
    """Short digest (16 hex digits) of a JSON value: equal values have equal digests on every machine.

    >>> digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Write `value` as indented UTF-8 JSON, whole or not at all.

    Args:
        durable: on return, the file survives a loss of power.
    """
    with write_atomically(path) as aside:
        aside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if durable:
            flush_to_disk(aside)
    if durable:
        flush_to_disk(path.parent)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        BundleError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path}: file is missing") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: not valid JSON ({error})") from None


def list_files(folder: Path, manifest: str | None = None) -> dict[str, dict[str, Any]]:
    """Size and checksum of every file in `folder`, by its relative path.

    Args:
        manifest: name of manifest files. They are not listed, nor are the files of an inner folder that has one.
    """
    sealed = {path.parent for path in folder.rglob(manifest)} - {folder} if manifest else set()
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": hash_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != manifest and not sealed.intersection(path.parents)
    }


def find_damaged_files(
    folder: Path, expected_files: Mapping[str, Mapping[str, Any]], checksums: bool | Collection[str] = True
) -> Iterator[str]:
    """Faults of the files of an inventory, one sentence for each faulty file.

    Args:
        expected_files: size and checksum by relative path, as `list_files` returns them.
        checksums: files whose digests are compared (true: all); of the others sizes are compared.
    """
    for relative, expected in expected_files.items():
        path = folder / relative
        checked = checksums if isinstance(checksums, bool) else relative in checksums
        if not path.is_file():
            yield f"{path}: file is missing, though it is listed"
        elif path.stat().st_size != expected["bytes"]:
            yield f"{path}: {path.stat().st_size} bytes, {expected['bytes']} are listed"
        elif checked and hash_file(path) != expected["sha256"]:
            yield f"{path}: checksum differs from the one listed; the file is damaged"


def seal_folder(folder: Path, manifest: dict[str, Any], name: str = "manifest.json") -> None:
    """Write `manifest` into `folder`, with the size and checksum of every file there.

    Files of an inner folder with such a manifest of its own are not listed.
    """
    write_json(folder / name, {**manifest, "files": list_files(folder, name)})


def verify_sealed_folder(
    folder: Path, name: str = "manifest.json", checksums: bool | Collection[str] = True
) -> dict[str, Any]:
    """Read the manifest of a sealed folder and check every file it names.

    Args:
        checksums: files whose digests are compared (true: all); of the others sizes are compared.

    Raises:
        BundleError: a file is missing, of another size or of another content; the message names it.
    """
    manifest: dict[str, Any] = read_json(Path(folder) / name)
    fault = next(find_damaged_files(Path(folder), manifest.get("files", {}), checksums), None)
    if fault:
        raise BundleError(fault)
    return manifest

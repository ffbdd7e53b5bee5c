"""Keeps the service's own copies of bundles, so that live documents never change the bundle of a registry or a run.

    WORKSPACE/serve/current.json     which copy holds the live documents
                    copies/NAME/     a bundle; its immutable files are hard links to the original's

After a crash only the copy that `current.json` names matters; others are made again.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from retreever.bundle.document_store import ADDED_DOCUMENTS_FILE, DocumentStore
from retreever.errors import BundleError
from retreever.index import index_store
from retreever.service.controller.bundle_changes import write_origin
from retreever.system.files import (
    digest_json,
    flush_to_disk,
    read_json,
    verify_sealed_folder,
    write_atomically,
    write_json,
)
from retreever.trained_tree import MODEL_FILES

# A live bundle rewrites or extends these files, so a copy must not share them with its original.
MUTABLE_FILES = ("manifest.json", "writer.lock", ADDED_DOCUMENTS_FILE)


class BundleCopies:
    """The copies below a workspace."""

    def __init__(self, workspace: Path):
        self._root = workspace / "serve"

    def get_folder(self, name: str) -> Path:
        """Return the folder of a copy."""
        return self._root / "copies" / name

    @property
    def current(self) -> str | None:
        """Name of the copy that holds the live documents."""
        file = self._root / "current.json"
        return str(read_json(file)["copy"]) if file.is_file() else None

    @current.setter
    def current(self, name: str) -> None:
        write_json(self._root / "current.json", {"copy": name}, durable=True)

    def copy_bundle(
        self,
        source: Path,
        name: str,
        deleted: frozenset[str] = frozenset(),
        source_values: Mapping[str, Any] = MappingProxyType({}),
    ) -> Path:
        """Compare a bundle's checksums, then copy it, whole or not at all; it replaces a copy of that name.

        Args:
            deleted: ids that were deleted while earlier versions served.
            source_values: values of the original's `BundleSource`, written into the copy.

        Raises:
            BundleError: a file of the original is missing or damaged.
        """
        verify_bundle(source)
        folder = self.get_folder(name)
        with write_atomically(folder) as aside:
            shutil.copytree(source, aside, copy_function=_link_or_copy)
            write_origin(aside, deleted, source_values)
        flush_to_disk(folder.parent)
        return folder

    def keep_only(self, names: set[str]) -> None:
        """Remove all copies except these and the current one."""
        for folder in (self._root / "copies").glob("*"):
            if folder.name not in names | {self.current}:
                shutil.rmtree(folder, ignore_errors=True)


def _link_or_copy(source: str, target: str) -> None:
    if Path(source).name not in MUTABLE_FILES:
        try:
            os.link(source, target)
            return
        except OSError:  # on another file system
            pass
    shutil.copy2(source, target)


def make_copy_name(bundle: Path, version: str) -> str:
    """Name a bundle's copy by version and digest of its manifests: another content, another name."""
    manifests = sorted(bundle.rglob("manifest.json"))
    if not manifests:
        raise BundleError(f"{bundle / 'manifest.json'}: file is missing")
    stamp = digest_json([[str(path.relative_to(bundle)), path.read_text(errors="replace")] for path in manifests])
    plain = "".join(c if c.isalnum() else "-" for c in version.split("/")[-1])[-40:]
    return f"{plain}-{stamp[:12]}"


def verify_bundle(bundle: Path) -> None:
    """Compare all checksums of a bundle.

    Raises:
        BundleError: a file is missing or damaged; the message names it.
    """
    for part in ("index", "documents"):
        if not (bundle / part).is_dir():
            raise BundleError(f"{bundle / part}: is missing; `retreever index` makes a bundle of a model")
    verify_sealed_folder(bundle, checksums=MODEL_FILES)
    verify_sealed_folder(bundle / "documents")
    _, state, _ = index_store.open_index(bundle / "index", mmap=True, checksums=True)
    DocumentStore(bundle / "documents").require(state.next_number)

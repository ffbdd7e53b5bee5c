"""The service's own copies of bundles: what a registry or a run keeps is never changed by live documents.

    WORKSPACE/serve/current.json     which copy holds the live documents
                    copies/NAME/     a bundle; its unchanging files are second names of the original's

The copy that `current.json` names is the only one that matters after a crash; others are made anew.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from retreever.bundle.document_store import ADDED, Documents
from retreever.errors import BundleError
from retreever.index import index_store
from retreever.service.controller.bundle_changes import originate
from retreever.system.files import digest, flush, read_json, unseal, write_aside, write_json
from retreever.trained_tree import MODEL_FILES

CHANGING = ("manifest.json", "writer.lock", ADDED)  # written over or appended to in a living bundle


class Copies:
    """The copies of a workspace."""

    def __init__(self, workspace: Path):
        self._root = workspace / "serve"

    def folder(self, name: str) -> Path:
        """Where a copy lies."""
        return self._root / "copies" / name

    @property
    def current(self) -> str | None:
        """Name of the copy that holds the live documents."""
        file = self._root / "current.json"
        return str(read_json(file)["copy"]) if file.is_file() else None

    @current.setter
    def current(self, name: str) -> None:
        write_json(self._root / "current.json", {"copy": name}, durable=True)

    def make(
        self,
        source: Path,
        name: str,
        deleted: frozenset[str] = frozenset(),
        known: Mapping[str, Any] = MappingProxyType({}),
    ) -> Path:
        """Copy a bundle, whole or not at all, in place of one of that name, and compare all its checksums.

        Args:
            deleted: ids that were deleted while earlier versions served.
            known: of the original, to be kept with the copy.

        Raises:
            BundleError: a file of the original is missing or damaged.
        """
        verify(source)
        folder = self.folder(name)
        with write_aside(folder) as aside:
            shutil.copytree(source, aside, copy_function=_second_name)
            originate(aside, deleted, known)
        flush(folder.parent)
        return folder

    def keep_only(self, names: set[str]) -> None:
        """Remove all copies but these and the current one."""
        for folder in (self._root / "copies").glob("*"):
            if folder.name not in names | {self.current}:
                shutil.rmtree(folder, ignore_errors=True)


def _second_name(source: str, target: str) -> None:
    if Path(source).name not in CHANGING:
        try:
            os.link(source, target)
            return
        except OSError:  # on another file system
            pass
    shutil.copy2(source, target)


def name_of(bundle: Path, version: str) -> str:
    """The name of a bundle's copy: another one where anything in the bundle is another."""
    manifests = sorted(bundle.rglob("manifest.json"))
    if not manifests:
        raise BundleError(f"{bundle / 'manifest.json'}: file is missing")
    stamp = digest([[str(path.relative_to(bundle)), path.read_text(errors="replace")] for path in manifests])
    plain = "".join(c if c.isalnum() else "-" for c in version.split("/")[-1])[-40:]
    return f"{plain}-{stamp[:12]}"


def verify(bundle: Path) -> None:
    """Read a bundle's files and compare all checksums.

    Raises:
        BundleError: one is missing or damaged; the message names it.
    """
    for part in ("index", "documents"):
        if not (bundle / part).is_dir():
            raise BundleError(f"{bundle / part}: is missing; `retreever index` makes a bundle of a model")
    unseal(bundle, checksums=MODEL_FILES)
    unseal(bundle / "documents")
    _, state, _ = index_store.open_index(bundle / "index", mmap=True, checksums=True)
    Documents(bundle / "documents").require(state.next)

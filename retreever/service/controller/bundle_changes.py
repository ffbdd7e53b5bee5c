"""The live documents of a bundle: how a copy has changed since it was made, and what another version lacks of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from retreever.bundle.document_store import DocumentStore
from retreever.data.dataset import Passage
from retreever.index import index_store
from retreever.index.index_state import IndexState
from retreever.index.tree_index import TreeIndex
from retreever.system.files import read_json, write_json

ORIGIN_FILE = "copied.json"


@dataclass(frozen=True)
class BundleChanges:
    """Passages added and ids deleted; false if there are none.

    Attributes:
        added: passages by id.
        deleted: ids whose passages were removed; an id that is also in `added` was replaced.
    """

    added: dict[str, Passage] = field(default_factory=dict)
    deleted: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.added or self.deleted)

    def find_missing(self, index: TreeIndex, documents: DocumentStore, base: int) -> "BundleChanges":
        """Find the changes that a bundle lacks.

        Args:
            base: the bundle's passages from this number on were added live; those not in `added` must go.
        """
        present = _find_numbers(index, self.added)
        same = {name for name, number in present.items() if documents[number] == self.added[name]}
        live = {documents[number].id for number in index.list_numbers().tolist() if number >= base}
        unwanted = _find_numbers(index, self.deleted - self.added.keys()).keys() | (live - self.added.keys())
        missing = {name: passage for name, passage in self.added.items() if name not in same}
        return BundleChanges(missing, frozenset(unwanted | (present.keys() - same)))


def _find_numbers(index: TreeIndex, ids: dict[str, Passage] | frozenset[str]) -> dict[str, int]:
    """Find the numbers of those ids that the index holds."""
    names = list(ids)
    return {name: number for name, number in zip(names, index.find_numbers(names).tolist(), strict=True) if number >= 0}


def write_origin(
    folder: Path, deleted: frozenset[str] = frozenset(), source: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Write the state of a copied bundle before it is changed.

    Args:
        deleted: ids that were deleted while earlier versions served; later versions must not hold them either.
        source: values of the original's `BundleSource`.
    """
    _, state, _ = index_store.open_index(folder / "index", mmap=True, checksums=False)
    origin = {
        "base": state.next_number,
        "dead": sorted(_find_deleted(state)),
        "deleted": sorted(deleted),
        "source": dict(source),
    }
    write_json(folder / ORIGIN_FILE, origin, durable=True)


def record_deleted(folder: Path, deleted: frozenset[str]) -> None:
    """Write the ids that were deleted while earlier versions served, in place of those noted before."""
    write_json(folder / ORIGIN_FILE, read_json(folder / ORIGIN_FILE) | {"deleted": sorted(deleted)}, durable=True)


def read_source(folder: Path) -> dict[str, Any]:
    """Read the values of the original's `BundleSource`."""
    return dict(read_json(folder / ORIGIN_FILE)["source"])


def read_base(folder: Path) -> int:
    """Read the number from which on passages were added live."""
    return int(read_json(folder / ORIGIN_FILE)["base"])


def read_changes(folder: Path) -> BundleChanges:
    """Read how a copied bundle has changed, with the ids deleted while earlier versions served.

    Raises:
        BundleError: a file is missing or damaged.
    """
    origin, documents = read_json(folder / ORIGIN_FILE), DocumentStore(folder / "documents")
    _, state, _ = index_store.open_index(folder / "index", mmap=True, checksums=False)
    documents.require(state.next_number)
    added = [documents[number] for number in state.list_numbers().tolist() if number >= origin["base"]]
    newly_deleted = _find_deleted(state) - set(origin["dead"])
    deleted = frozenset(documents[number].id for number in newly_deleted) | frozenset(origin["deleted"])
    return BundleChanges({passage.id: passage for passage in added}, deleted)


def _find_deleted(state: IndexState) -> set[int]:
    return set(np.setdiff1d(np.arange(state.next_number), state.list_numbers()).tolist())

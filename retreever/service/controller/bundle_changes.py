"""How a living bundle differs from the one it was copied from, so that the next version can be changed alike."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from retreever.bundle.document_store import Documents
from retreever.data.dataset import Passage
from retreever.index import index_store
from retreever.index.index_state import State
from retreever.index.tree_index import TreeIndex
from retreever.system.files import read_json, write_json

ORIGIN = "copied.json"


@dataclass(frozen=True)
class Changes:
    """Passages added and ids deleted.

    Attributes:
        added: by id.
        deleted: ids that are not wanted, or not as they were.
    """

    added: dict[str, Passage] = field(default_factory=dict)
    deleted: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.added or self.deleted)

    def beyond(self, index: TreeIndex, documents: Documents, base: int) -> "Changes":
        """What of this a bundle lacks.

        Args:
            base: its passages from this number on were added live: those not wanted are to be deleted.
        """
        there = _numbers(index, self.added)
        same = {name for name, number in there.items() if documents[number] == self.added[name]}
        own = {documents[number].id for number in index.living().tolist() if number >= base}
        unwanted = _numbers(index, self.deleted - self.added.keys()).keys() | (own - self.added.keys())
        missing = {name: passage for name, passage in self.added.items() if name not in same}
        return Changes(missing, frozenset(unwanted | (there.keys() - same)))


def _numbers(index: TreeIndex, ids: dict[str, Passage] | frozenset[str]) -> dict[str, int]:
    """Numbers of those that are there."""
    names = list(ids)
    return {name: number for name, number in zip(names, index.find(names).tolist(), strict=True) if number >= 0}


def originate(
    folder: Path, deleted: frozenset[str] = frozenset(), source: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Note what a copied bundle is before it is changed.

    Args:
        deleted: ids that were deleted while earlier versions served; the next ones must not have them either.
        source: what is known of the original.
    """
    _, state, _ = index_store.open_index(folder / "index", mmap=True, checksums=False)
    noted = {"base": state.next, "dead": sorted(_dead(state)), "deleted": sorted(deleted), "source": dict(source)}
    write_json(folder / ORIGIN, noted, durable=True)


def carry(folder: Path, deleted: frozenset[str]) -> None:
    """Note what else was deleted while earlier versions served."""
    write_json(folder / ORIGIN, read_json(folder / ORIGIN) | {"deleted": sorted(deleted)}, durable=True)


def source(folder: Path) -> dict[str, Any]:
    """What is known of a copy's original."""
    return dict(read_json(folder / ORIGIN)["source"])


def base(folder: Path) -> int:
    """Passages from this number on were added live."""
    return int(read_json(folder / ORIGIN)["base"])


def changes(folder: Path) -> Changes:
    """How a copied bundle was changed, and what had been deleted before.

    Raises:
        BundleError: a file is missing or damaged.
    """
    origin, documents = read_json(folder / ORIGIN), Documents(folder / "documents")
    _, state, _ = index_store.open_index(folder / "index", mmap=True, checksums=False)
    documents.require(state.next)
    added = [documents[number] for number in state.living().tolist() if number >= origin["base"]]
    gone = _dead(state) - set(origin["dead"])
    deleted = frozenset(documents[number].id for number in gone) | frozenset(origin["deleted"])
    return Changes({passage.id: passage for passage in added}, deleted)


def _dead(state: State) -> set[int]:
    return set(np.setdiff1d(np.arange(state.next), state.living()).tolist())

"""Finds the passages that have given values in their metadata. Requests and searches are not known here."""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retreever.bundle.document_store import DocumentStore

MetadataFilter = Mapping[str, Any]


class MetadataIndex:
    """The numbers of passages by field and value; it reads each passage once, and follows the documents as they grow.

    A field that holds a list has all of the list's values.
    """

    def __init__(self, documents: DocumentStore):
        self._documents, self._read = documents, 0
        self._numbers: dict[tuple[str, Any], array[int]] = {}

    def mask(self, where: MetadataFilter, count: int) -> np.ndarray:
        """Mark those of the first `count` passages that match every field of `where`, bool (count,).

        A list in `where` matches any of its values. The first call reads the metadata of every passage.
        """
        for number in range(self._read, count):
            for name, value in self._documents[number].metadata.items():
                for one in value if isinstance(value, list) else [value]:
                    if not isinstance(one, dict | list):
                        self._numbers.setdefault((name, _make_key(one)), array("q")).append(number)
        self._read = max(self._read, count)
        matches = np.ones(count, bool)
        for name, value in where.items():
            matches &= self._mask_field(name, value if isinstance(value, list) else [value], count)
        return matches

    def _mask_field(self, name: str, values: Sequence[Any], count: int) -> np.ndarray:
        matches = np.zeros(count, bool)
        for value in values:
            numbers = np.array(self._numbers.get((name, _make_key(value)), ()), np.int64)
            matches[numbers[numbers < count]] = True
        return matches


def _make_key(value: Any) -> Any:
    """Make a key under which True differs from 1."""
    return (bool, value) if isinstance(value, bool) else value

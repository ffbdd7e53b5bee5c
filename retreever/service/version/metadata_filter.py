"""Which passages have certain values in their metadata: numbers by field and value, read once and kept up to date."""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retreever.bundle.document_store import Documents

Filter = Mapping[str, Any]


class Fields:
    """Numbers of the passages that have a value in a field; a list in a field has all of its values."""

    def __init__(self, documents: Documents):
        self._documents, self._read = documents, 0
        self._numbers: dict[tuple[str, Any], array[int]] = {}

    def mask(self, where: Filter, count: int) -> np.ndarray:
        """Which of the first `count` passages have all the values, bool (count,); of a list, one of its values.

        The first call reads the metadata of every passage.
        """
        for number in range(self._read, count):
            for name, value in self._documents[number].metadata.items():
                for one in value if isinstance(value, list) else [value]:
                    if not isinstance(one, dict | list):
                        self._numbers.setdefault((name, _key(one)), array("q")).append(number)
        self._read = max(self._read, count)
        kept = np.ones(count, bool)
        for name, value in where.items():
            kept &= self._having(name, value if isinstance(value, list) else [value], count)
        return kept

    def _having(self, name: str, values: Sequence[Any], count: int) -> np.ndarray:
        having = np.zeros(count, bool)
        for value in values:
            numbers = np.array(self._numbers.get((name, _key(value)), ()), np.int64)
            having[numbers[numbers < count]] = True
        return having


def _key(value: Any) -> Any:
    """True is not 1, though Python has it so."""
    return (bool, value) if isinstance(value, bool) else value

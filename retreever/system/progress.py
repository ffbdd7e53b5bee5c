"""How long work tells how far it is, without knowing about terminals.

Library code takes a `Track`: a function that passes an iterable through and shows its progress. The command line
hands in one that draws bars; everybody else gets `silent`.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Track(Protocol):
    """`for item in track(items, "encoding passages", total=n): ...`"""

    def __call__(self, items: Iterable[T], label: str, total: float | None = None) -> Iterator[T]: ...


def silent(items: Iterable[T], label: str, total: float | None = None) -> Iterator[T]:
    """Pass `items` through and show nothing."""
    yield from items

"""Progress of long work, without knowledge of terminals.

Library code takes a `Track`: a function that passes an iterable through and shows its progress. The command line
passes one that draws bars; the default is `track_silently`.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Track(Protocol):
    """A function used as `for item in track(items, "encoding passages", total=n): ...`."""

    def __call__(self, items: Iterable[Item], label: str, total: float | None = None) -> Iterator[Item]: ...


def track_silently(items: Iterable[Item], label: str, total: float | None = None) -> Iterator[Item]:
    """Pass `items` through and show nothing."""
    yield from items

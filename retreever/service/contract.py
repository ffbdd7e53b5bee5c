"""The interface between gateway, versions and controller.

Where they run, in this process or in Ray's, is not known here. A refusal is a return value wherever a call may cross
processes: Ray would wrap a raised one in RayTaskError, a RayError, which callers take for a lost replica.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from retreever.data.dataset import Passage
from retreever.service.controller.bundle_changes import BundleChanges
from retreever.service.refusal import RefusalError
from retreever.service.schema import EmbedRequest, SearchRequest

Reply = bytes | RefusalError  # JSON, or the reason why there is none
ReadMethod = Literal["read_tree", "read_node", "read_documents", "list_documents"]  # methods of RequestHandler


@dataclass(frozen=True)
class SearchAnswer:
    """An answer in JSON, with the figures that are measured of it.

    Attributes:
        level: level that was searched.
        ids: passages found for the first query, best first.
        stages: seconds by stage.
    """

    body: bytes
    level: int
    ids: list[str]
    stages: dict[str, float]


class CorpusWriter(Protocol):
    """Changes a corpus; a change is on disk, and the next search sees it, when the call returns."""

    async def add(self, passages: Sequence[Passage]) -> Reply:
        """Add passages."""

    async def delete(self, ids: Sequence[str]) -> Reply:
        """Delete passages."""


class ControlPlane(CorpusWriter, Protocol):
    """The controller, as the gateway calls it."""

    async def reload(self) -> None:
        """Look for another version to serve; wait until it serves or has failed to load."""


class VersionReader(Protocol):
    """A running version, as the gateway calls it."""

    async def search(self, requests: list[SearchRequest]) -> list[SearchAnswer | Exception]:
        """Answer a batch of requests, one answer or exception each, in order."""

    async def embed(self, request: EmbedRequest) -> Reply:
        """Embed texts as node probabilities of a level."""

    async def read(self, method: ReadMethod, *arguments: Any) -> Reply:
        """Read the tree, a node, or documents."""


class Version(VersionReader, CorpusWriter, Protocol):
    """A running version, as the controller calls it."""

    async def catch_up(self, wanted: BundleChanges) -> int:
        """Make the changes that another version has; return how many passages that took.

        Raises:
            RefusalError: a passage cannot be added.
        """

    async def count_passages(self) -> int:
        """Count the passages of the corpus."""

"""What gateway, versions and controller say to one another.

A refusal is a return value wherever a call may cross processes: Ray would wrap a raised one in RayTaskError, as
if the controller were lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from retreever.data.dataset import Passage
from retreever.service.refusal import RefusalError

Reply = bytes | RefusalError  # JSON, or the reason why there is none
ReadMethod = Literal["read_tree", "read_node", "read_documents", "list_documents"]  # methods of RequestHandler


@dataclass(frozen=True)
class SearchAnswer:
    """An answer in JSON, with the figures that are measured of it.

    Attributes:
        level: level that was searched.
        ids: passages found for the first query, best first.
        stages: seconds by stage.
        version: the version that answered.
    """

    body: bytes
    level: int
    ids: list[str]
    stages: dict[str, float]
    version: str = ""


class ControlPlane(Protocol):
    """The controller, as the gateway calls it. A change that is answered is on disk, and the next search sees it."""

    async def add(self, passages: Sequence[Passage]) -> Reply:
        """Add passages."""

    async def delete(self, ids: Sequence[str]) -> Reply:
        """Delete passages."""

    async def reload(self) -> RefusalError | None:
        """Look for another version to serve; wait until it serves or has failed to load."""

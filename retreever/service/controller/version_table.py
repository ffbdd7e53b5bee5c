"""What should serve and what serves, as data: the controller writes it, every replica follows it."""

from dataclasses import dataclass

from retreever.service.schema import VersionInfo


@dataclass(frozen=True)
class ServingVersion:
    """A version that serves.

    Attributes:
        copy: name of its bundle's copy.
        folder: folder of that copy.
        resolved_uri: where its bundle was found, as `resolve_uri` returns it.
    """

    copy: str
    folder: str
    resolved_uri: str
    info: VersionInfo


@dataclass(frozen=True)
class VersionTable:
    """The versions that serve, and why the desired champion and canary do not; None where they do."""

    champion: ServingVersion | None = None
    canary: ServingVersion | None = None
    faults: tuple[str | None, str | None] = (None, None)


@dataclass(frozen=True)
class DesiredVersions:
    """The versions that should serve.

    Attributes:
        model: champion: a URI, a run or a folder.
        canary: canary, named alike; None for no canary.
        share: share of the searches that the canary answers.
    """

    model: str
    canary: str | None = None
    share: float = 0.0

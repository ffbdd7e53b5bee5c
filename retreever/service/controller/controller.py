"""Which versions serve: follows an alias, brings a new version up beside the old one, and hands over.

A new version is copied, checked, started, and given every live document; only then it takes traffic, and the old one
ends when what it was asked is answered. What does not load leaves the old one serving, with the reason for all to see.
All changes of the corpus go through here, one after the other. How versions are started is not known here.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from retreever.data.dataset import Passage
from retreever.service.controller.bundle_changes import Changes, carry, changes
from retreever.service.controller.bundle_changes import source as origin
from retreever.service.controller.bundle_copies import Copies, name_of, verify
from retreever.service.controller.bundle_sources import Source, pinned, source
from retreever.service.refusal import Refused
from retreever.service.schema import VersionInfo
from retreever.system.workspace import Workspace
from retreever.trained_tree import load_model, model_digest

log = logging.getLogger(__name__)


class Engine(Protocol):
    """A version at work, as far as the keeper asks it."""

    async def add(self, passages: Sequence[Passage]) -> bytes | Refused:
        """Add passages; on disk when it returns."""

    async def delete(self, ids: Sequence[str]) -> bytes | Refused:
        """Delete passages; on disk when it returns."""

    async def catch_up(self, wanted: Changes) -> int:
        """Change it as another version was changed."""

    async def total(self) -> int:
        """How many passages there are."""


class Starter(Protocol):
    """How versions are started and ended."""

    async def start(self, app: str, folder: Path, version: str) -> None:
        """Bring a version up; returns when it can be asked.

        Raises:
            RuntimeError: it does not come up; nothing of it is left then.
        """

    async def stop(self, app: str) -> None:
        """End a version when what it was asked is answered."""

    async def running(self) -> list[str]:
        """Versions that are up."""

    def engine(self, app: str) -> Engine:
        """A version to ask."""


@dataclass(frozen=True)
class Serving:
    """A version that is up.

    Attributes:
        app: under which name.
        copy: name of its bundle's copy.
        asked: what it was found under, as `pinned` says.
    """

    app: str
    copy: str
    asked: str
    info: VersionInfo


@dataclass(frozen=True)
class Table:
    """What callers go by."""

    champion: Serving | None = None
    canary: Serving | None = None
    faults: tuple[str | None, str | None] = (None, None)


@dataclass(frozen=True)
class Wanted:
    """What is to serve.

    Attributes:
        model: a URI, a run or a folder.
        canary: the same of the version that is tried; None for none.
        share: of the searches that the canary answers.
    """

    model: str
    canary: str | None = None
    share: float = 0.0


@dataclass
class Keeper:
    """Keeps what is wanted serving.

    Attributes:
        table: what serves now.
        drain_s: after which a version that was replaced is ended; longer than callers take to notice.
        again_s: after which what did not load is tried again while nothing serves.
    """

    wanted: Wanted
    workspace: Workspace
    starter: Starter
    drain_s: float = 5
    again_s: float = 30
    table: Table = field(default_factory=Table)

    def __post_init__(self) -> None:
        self._copies = Copies(self.workspace.root)
        self._swapping, self._writing = asyncio.Lock(), asyncio.Lock()
        self._failed: dict[str, float] = {}
        self._leaving: dict[str, float] = {}  # when a version was replaced: callers who have not noticed still ask it
        self._retiring: set[asyncio.Task[None]] = set()

    async def check(self, force: bool = False) -> None:
        """See whether other versions are to serve, and bring them up.

        Args:
            force: try again what did not load before, and look for a change behind a name that stayed.
        """
        async with self._swapping:
            if force:
                self._failed.clear()
            await self._see("champion", self.wanted.model, force)
            if self.wanted.canary is not None and self.table.champion is not None:
                await self._see("canary", self.wanted.canary, force)

    async def _see(self, role: str, uri: str, force: bool) -> None:
        now = asyncio.get_running_loop().time()
        present: Serving | None = getattr(self.table, role)
        asked = uri
        try:
            asked = await asyncio.to_thread(pinned, uri, self.workspace)
            if asked == (present and present.asked) and not force:
                return self._say(role, None)
            if now < self._failed.get(role + asked, 0):
                return
            await self._swap(role, await asyncio.to_thread(source, uri, asked, self.workspace), asked)
            self._say(role, None)
        except Exception as error:  # of the registry, the files or Ray: whatever it is, what serves goes on serving
            log.warning("%s %s does not serve: %s", role, asked, error)
            if role == "champion" and self.table.champion is None:
                await self._fall_back()
            self._failed[role + asked] = now + (self.again_s if self.table.champion is None else float("inf"))
            self._say(role, f"{asked}: {error}")

    async def _fall_back(self) -> None:
        """Serve what served before this process and Ray were started anew."""
        copy = self._copies.current
        if copy is None:
            return
        try:
            before = Source.from_json(await asyncio.to_thread(origin, self._copies.folder(copy)))
            await self._bring("champion", before, copy, before.version)
        except Exception as error:
            log.warning("copy %s does not serve either: %s", copy, error)

    def _say(self, role: str, fault: str | None) -> None:
        champion, canary = self.table.faults
        faults = (fault, canary) if role == "champion" else (champion, fault)
        self.table = replace(self.table, faults=faults)

    def _set(self, role: str, serving: Serving) -> None:
        before: Serving | None = getattr(self.table, role)
        if before is not None and before.app != serving.app:
            self._leaving[before.app] = asyncio.get_running_loop().time()
        champion = serving if role == "champion" else self.table.champion
        canary = serving if role == "canary" else self.table.canary
        self.table = replace(self.table, champion=champion, canary=canary)

    async def _swap(self, role: str, found: Source, asked: str) -> None:
        """Bring a version up in a role, and let go of the one before."""
        copy = await asyncio.to_thread(name_of, found.folder, found.version)
        present: Serving | None = getattr(self.table, role)
        if present is not None and present.copy == copy:
            self._set(role, replace(present, asked=asked))
        else:
            await self._bring(role, found, copy, asked)

    async def _bring(self, role: str, found: Source, copy: str, asked: str) -> None:
        folder, fresh = await self._copied(found, copy)
        app, adopted = await self._up(copy, folder, found.version, fresh)
        try:
            info = await self._info(found, folder, role)
            await self._hand_over(role, Serving(app, copy, asked, info), folder)
        except BaseException:
            if not adopted:
                await self.starter.stop(app)
            raise
        self._retire()

    async def _copied(self, found: Source, copy: str) -> tuple[Path, bool]:
        """The copy of a bundle, and whether it was made anew: not the one that serves or holds the live documents."""
        current, folder = self._copies.current, self._copies.folder(copy)
        if copy == current:
            await asyncio.to_thread(verify, folder)
            return folder, False
        if copy in {s.copy for s in (self.table.champion, self.table.canary) if s}:
            return folder, False
        before = await asyncio.to_thread(changes, self._copies.folder(current)) if current else Changes()
        known = found.to_json()
        return await asyncio.to_thread(self._copies.make, found.folder, copy, before.deleted, known), True

    async def _up(self, copy: str, folder: Path, version: str, fresh: bool) -> tuple[str, bool]:
        """The name of a version that is up, and whether it was so before."""
        prefix = f"retreever-{copy}-"
        for app in [] if fresh else await self.starter.running():
            if app.startswith(prefix):  # the canary, or one from before this process was replaced
                return app, True
        app = f"{prefix}{secrets.token_hex(3)}"
        await self.starter.start(app, folder, version)
        return app, False

    async def _info(self, found: Source, folder: Path, role: str) -> VersionInfo:
        _, config = await asyncio.to_thread(load_model, folder)
        return VersionInfo(
            version=found.version,
            digest=(await asyncio.to_thread(model_digest, folder))[:16],
            depth=config.tree.depth,
            similarity=config.loss.similarity,
            encoder=config.encoder.name,
            uri=found.uri,
            run_id=found.run_id,
            run_url=found.run_url,
            data=found.data or config.data.name,
            metrics=found.metrics,
            documents=0,
            share=self.wanted.share if role == "canary" else 1 - self.wanted.share,
        )

    async def _hand_over(self, role: str, new: Serving, folder: Path) -> None:
        """Give a version every live document, most of them while writing goes on, and let it serve."""
        current, engine = self._copies.current, self.starter.engine(new.app)
        old = self._copies.folder(current) if current and current != new.copy else None
        if old is not None:
            await engine.catch_up(await asyncio.to_thread(changes, old))
        async with self._writing:
            if old is not None:
                latest = await asyncio.to_thread(changes, old)
                await engine.catch_up(latest)
                await asyncio.to_thread(carry, folder, latest.deleted)
            info = new.info.model_copy(update={"documents": await engine.total()})
            if (
                role == "champion"
            ):  # from here to the table without a pause: the copy that is current is the one that serves
                self._copies.current = new.copy
            self._set(role, replace(new, info=info))

    def _retire(self) -> None:
        task = asyncio.create_task(self._end_others())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _end_others(self) -> None:
        """End what serves no more, when callers have noticed."""
        await asyncio.sleep(self.drain_s)
        async with self._swapping:
            kept = [s for s in (self.table.champion, self.table.canary) if s]
            since = asyncio.get_running_loop().time() - self.drain_s
            self._leaving = {app: left for app, left in self._leaving.items() if left > since}
            for app in await self.starter.running():
                if app not in self._leaving.keys() | {s.app for s in kept}:
                    await self.starter.stop(app)
            if not self._leaving:
                await asyncio.to_thread(self._copies.keep_only, {s.copy for s in kept})

    async def add(self, passages: Sequence[Passage]) -> bytes | Refused:
        """Add passages; on disk, and found by the next search, when it returns."""
        return await self._change("add", passages)

    async def delete(self, ids: Sequence[str]) -> bytes | Refused:
        """Delete passages; on disk, and found no more, when it returns."""
        return await self._change("delete", ids)

    async def _change(self, what: str, items: Any) -> bytes | Refused:
        async with self._writing:
            champion, canary = self.table.champion, self.table.canary
            if champion is None:
                return Refused(503, self.table.faults[0] or "no version serves yet", retry_after=2)
            reply: bytes | Refused = await getattr(self.starter.engine(champion.app), what)(items)
            if isinstance(reply, Refused):
                return reply
            total = await self.starter.engine(champion.app).total()
            info = champion.info.model_copy(update={"documents": total})
            self.table = replace(self.table, champion=replace(champion, info=info))
            if canary is not None and canary.app != champion.app:
                await self._follow(canary, champion, what, items)
            for app in self._leaving.keys() - {champion.app, canary and canary.app}:
                with contextlib.suppress(Exception):
                    await getattr(self.starter.engine(app), what)(items)
            return reply

    async def _follow(self, canary: Serving, champion: Serving, what: str, items: Any) -> None:
        """Change the canary alike; where it cannot be done, it is out of the game, and the reason is told."""
        try:
            engine = self.starter.engine(canary.app)
            if isinstance(await getattr(engine, what)(items), Refused):  # its own corpus is another
                await engine.catch_up(await asyncio.to_thread(changes, self._copies.folder(champion.copy)))
        except Exception as error:
            self.table = replace(self.table, canary=None, faults=(self.table.faults[0], f"{canary.asked}: {error}"))
            self._failed["canary" + canary.asked] = float("inf")

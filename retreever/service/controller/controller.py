"""Decides which versions serve: follows an alias, opens the new version while the old one serves, and hands over.

A new version is copied, checked, opened, and given every live document. Only then does it stand in the table that the
replicas follow, and the old one goes once no replica reads it. If the new one fails to load, the old one keeps serving,
and the table says why. All changes of the corpus go through here, one after the other. Ray is not known here.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Sequence, Set
from contextvars import Context
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from retreever.data.dataset import Passage
from retreever.service.contract import Reply
from retreever.service.controller.bundle_changes import BundleChanges, read_changes, read_source, record_deleted
from retreever.service.controller.bundle_copies import BundleCopies, make_copy_name, verify_bundle
from retreever.service.controller.version_table import DesiredVersions, ServingVersion, VersionTable
from retreever.service.refusal import RefusalError
from retreever.service.schema import VersionInfo
from retreever.service.version.engine import Engine
from retreever.system.workspace import Workspace
from retreever.tracking.bundle_source import BundleSource, fetch_source, resolve_uri

_log = logging.getLogger(__name__)
ReturnType = TypeVar("ReturnType")


@dataclass(eq=False)
class Controller:
    """Brings the versions that serve in line with the desired ones, and changes their corpus.

    Attributes:
        open_version: opens the bundle in a folder, as a version of that name; the controller writes through it.
        retry_s: seconds after which a version that failed to load is tried again while nothing serves.
        reader_expiry_s: seconds after which a silent replica no longer counts as a reader of copies.
        table: the versions that serve now.
    """

    desired: DesiredVersions
    workspace: Workspace
    open_version: Callable[[Path, str], Engine]
    retry_s: float = 30
    reader_expiry_s: float = 30
    table: VersionTable = field(default_factory=VersionTable)

    def __post_init__(self) -> None:
        self._copies = BundleCopies(self.workspace.root)
        self._swap_lock, self._write_lock = asyncio.Lock(), asyncio.Lock()
        self._retry_times: dict[str, float] = {}
        self._started_at = time.monotonic()
        self._engines: dict[str, Engine] = {}  # by copy
        self._readers: dict[str, tuple[float, Set[str]]] = {}  # by replica: when it asked, and the copies that it reads

    async def sync(self, replica: str, copies: Set[str]) -> VersionTable:
        """Tell a replica which versions serve.

        Args:
            copies: the copies that it reads; they are kept, and get all changes, until it reads others.
        """
        self._readers[replica] = time.monotonic(), copies
        return self.table

    async def reconcile(self, force: bool = False) -> None:
        """Start the desired versions that do not serve yet.

        Args:
            force: retry versions that failed to load, and look for changed files behind an unchanged name.
        """
        async with self._swap_lock:
            if force:
                self._retry_times.clear()
            await self._reconcile_role("champion", self.desired.model, force)
            if self.desired.canary is not None and self.table.champion is not None:
                await self._reconcile_role("canary", self.desired.canary, force)

    async def _reconcile_role(self, role: str, uri: str, force: bool) -> None:
        now = asyncio.get_running_loop().time()
        present: ServingVersion | None = getattr(self.table, role)
        resolved_uri = uri
        try:
            resolved_uri = await asyncio.to_thread(resolve_uri, uri, self.workspace)
            if resolved_uri == (present and present.resolved_uri) and not force:
                return self._set_fault(role, None)
            if now < self._retry_times.get(role + resolved_uri, 0):
                return
            await self._replace_version(
                role, await asyncio.to_thread(fetch_source, uri, resolved_uri, self.workspace), resolved_uri
            )
            self._set_fault(role, None)
        except Exception as error:  # of registry, files or encoder: the old version keeps serving
            _log.warning("%s %s does not serve: %s", role, resolved_uri, error)
            if role == "champion" and self.table.champion is None:
                await self._fall_back()
            self._retry_times[role + resolved_uri] = now + (
                self.retry_s if self.table.champion is None else float("inf")
            )
            self._set_fault(role, f"{resolved_uri}: {error}")

    async def _fall_back(self) -> None:
        """Serve the version that served before a restart of this process or of Ray."""
        copy = self._copies.current
        if copy is None:
            return
        try:
            before = BundleSource.from_json(await asyncio.to_thread(read_source, self._copies.get_folder(copy)))
            await self._bring_up("champion", before, copy, before.version)
        except Exception as error:
            _log.warning("copy %s does not serve either: %s", copy, error)

    def _set_fault(self, role: str, fault: str | None) -> None:
        champion, canary = self.table.faults
        faults = (fault, canary) if role == "champion" else (champion, fault)
        self.table = replace(self.table, faults=faults)

    def _set_serving(self, role: str, serving: ServingVersion) -> None:
        champion = serving if role == "champion" else self.table.champion
        canary = serving if role == "canary" else self.table.canary
        self.table = replace(self.table, champion=champion, canary=canary)

    async def _replace_version(self, role: str, source: BundleSource, resolved_uri: str) -> None:
        """Give a role to a version; one that serves already from the same copy only gets its new name."""
        copy = await asyncio.to_thread(make_copy_name, source.folder, source.version)
        present: ServingVersion | None = getattr(self.table, role)
        if present is not None and present.copy == copy:
            self._set_serving(role, replace(present, resolved_uri=resolved_uri))
        else:
            await self._bring_up(role, source, copy, resolved_uri)

    async def _bring_up(self, role: str, source: BundleSource, copy: str, resolved_uri: str) -> None:
        folder = await self._copy_bundle(source, copy)
        engine = self._engines.get(copy)
        if engine is None:
            engine = await asyncio.to_thread(self.open_version, folder, source.version)
        info = self._describe_version(source, engine, role)
        await self._hand_over(role, ServingVersion(copy, str(folder), resolved_uri, info), engine)

    async def _copy_bundle(self, source: BundleSource, copy: str) -> Path:
        """Return the folder of a bundle's copy; a copy in use is not made again."""
        current, folder = self._copies.current, self._copies.get_folder(copy)
        if copy in self._engines:
            return folder
        if copy == current:
            await asyncio.to_thread(verify_bundle, folder)
            return folder
        before = await asyncio.to_thread(read_changes, self._copies.get_folder(current)) if current else BundleChanges()
        return await asyncio.to_thread(self._copies.copy_bundle, source.folder, copy, before.deleted, source.to_json())

    def _describe_version(self, source: BundleSource, engine: Engine, role: str) -> VersionInfo:
        retreever = engine.handler.retreever
        return VersionInfo(
            **engine.handler.model.model_dump(),
            uri=source.uri,
            run_id=source.run_id,
            run_url=source.run_url,
            data=source.data or retreever.config.data.name,
            metrics=source.metrics,
            documents=0,
            relevance=retreever.relevance.reports if retreever.relevance else None,
            share=self.desired.share if role == "canary" else 1 - self.desired.share,
        )

    async def _hand_over(self, role: str, new: ServingVersion, engine: Engine) -> None:
        """Give a version every live document, most of them while writes go on, and let it serve."""
        current = self._copies.current
        old = self._copies.get_folder(current) if current and current != new.copy else None
        if old is not None:
            await engine.catch_up(await asyncio.to_thread(read_changes, old))
        async with self._write_lock:
            if old is not None:
                latest = await asyncio.to_thread(read_changes, old)
                await engine.catch_up(latest)
                await asyncio.to_thread(record_deleted, Path(new.folder), latest.deleted)
            info = new.info.model_copy(update={"documents": await asyncio.to_thread(engine.handler.count_passages)})
            self._engines[new.copy] = engine
            if role == "champion":  # no await from here on: the current copy is always the one that serves
                self._copies.current = new.copy
            self._set_serving(role, replace(new, info=info))

    async def retire_unused(self) -> None:
        """Close the versions that neither serve nor are read by a replica, and remove their copies.

        A new controller waits until every replica has had time to name the copies that it reads.
        """
        oldest = time.monotonic() - self.reader_expiry_s
        if self._started_at > oldest:
            return
        async with self._swap_lock, self._write_lock:
            self._readers = {name: reader for name, reader in self._readers.items() if reader[0] > oldest}
            used = self._list_serving().union(*(copies for _, copies in self._readers.values()))
            self._engines = {copy: engine for copy, engine in self._engines.items() if copy in used}
            await asyncio.to_thread(self._copies.keep_only, used)

    def _list_serving(self) -> set[str]:
        return {version.copy for version in (self.table.champion, self.table.canary) if version}

    async def reload(self) -> RefusalError | None:
        """Look for other versions to serve; wait until they serve or have failed to load."""
        return await _run_to_completion(self.reconcile(force=True))

    async def add(self, passages: Sequence[Passage]) -> Reply:
        """Add passages; they are on disk, and the next search finds them, when this returns."""
        return await _run_to_completion(self._change_corpus("add", passages))

    async def delete(self, ids: Sequence[str]) -> Reply:
        """Delete passages; the change is on disk, and no search finds them, when this returns."""
        return await _run_to_completion(self._change_corpus("delete", ids))

    async def _change_corpus(self, method: str, items: Any) -> Reply:
        async with self._write_lock:
            champion, canary = self.table.champion, self.table.canary
            if champion is None:
                return RefusalError(503, self.table.faults[0] or "no version serves yet", retry_after=2)
            engine = self._engines[champion.copy]
            reply: Reply = await getattr(engine, method)(items)
            if isinstance(reply, RefusalError):
                return reply
            info = champion.info.model_copy(
                update={"documents": await asyncio.to_thread(engine.handler.count_passages)}
            )
            self.table = replace(self.table, champion=replace(champion, info=info))
            if canary is not None and canary.copy != champion.copy:
                await self._change_canary(canary, champion, method, items)
            for copy in self._engines.keys() - self._list_serving():  # replicas that have not noticed still read it
                with contextlib.suppress(Exception):
                    await getattr(self._engines[copy], method)(items)
            return reply

    async def _change_canary(self, canary: ServingVersion, champion: ServingVersion, method: str, items: Any) -> None:
        """Change the canary's corpus alike; a canary that fails stops serving, and the table says why."""
        try:
            engine = self._engines[canary.copy]
            if isinstance(await getattr(engine, method)(items), RefusalError):  # its corpus differs
                await engine.catch_up(await asyncio.to_thread(read_changes, Path(champion.folder)))
        except Exception as error:
            self.table = replace(
                self.table, canary=None, faults=(self.table.faults[0], f"{canary.resolved_uri}: {error}")
            )
            self._retry_times["canary" + canary.resolved_uri] = float("inf")


async def _run_to_completion(call: Coroutine[Any, Any, ReturnType]) -> ReturnType | RefusalError:
    """Return a call's result or its refusal. A caller that leaves does not cancel it: a change is whole or absent."""
    try:
        return await asyncio.shield(asyncio.create_task(call, context=Context()))
    except RefusalError as refused:
        return refused

"""Decides which versions serve: follows an alias, starts the new version while the old one serves, and hands over.

A new version is copied, checked, started, and given every live document. Only then does it take the traffic, and the
old one stops once it has answered the requests it holds. If the new one fails to load, the old one keeps serving, and
the table says why. All changes of the corpus go through here, one after the other. How a version is started, and in
which process, is not known here.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from retreever.bundle.relevance import Relevance
from retreever.data.dataset import Passage
from retreever.service.contract import Reply, Version
from retreever.service.controller.bundle_changes import BundleChanges, read_changes, read_source, record_deleted
from retreever.service.controller.bundle_copies import BundleCopies, make_copy_name, verify_bundle
from retreever.service.controller.bundle_sources import BundleSource, fetch_source, resolve_uri
from retreever.service.controller.version_table import DesiredVersions, ServingVersion, VersionTable
from retreever.service.refusal import RefusalError
from retreever.service.schema import VersionInfo
from retreever.system.workspace import Workspace
from retreever.trained_tree import digest_model, load_model

log = logging.getLogger(__name__)
ReturnType = TypeVar("ReturnType")


class VersionStarter(Protocol):
    """Starts and stops versions."""

    async def start(self, app: str, folder: Path, version: str) -> None:
        """Start a version; return when it is up.

        Raises:
            RuntimeError: it fails to start, and is removed again.
        """

    async def stop(self, app: str) -> None:
        """Stop a version once it has answered the requests it holds."""

    async def list_running(self) -> list[str]:
        """List the applications of versions that are up."""

    def connect(self, app: str) -> Version:
        """Connect to a version."""


@dataclass(eq=False)
class Controller:
    """Brings the versions that serve in line with the desired ones, and changes their corpus.

    Attributes:
        drain_s: seconds that a replaced version still runs; longer than callers take to notice.
        retry_s: seconds after which a version that failed to load is tried again while nothing serves.
        table: the versions that serve now.
    """

    desired: DesiredVersions
    workspace: Workspace
    starter: VersionStarter
    drain_s: float = 5
    retry_s: float = 30
    table: VersionTable = field(default_factory=VersionTable)

    def __post_init__(self) -> None:
        self._copies = BundleCopies(self.workspace.root)
        self._swap_lock, self._write_lock = asyncio.Lock(), asyncio.Lock()
        self._retry_times: dict[str, float] = {}
        self._replaced_at: dict[str, float] = {}  # by application; callers who have not noticed still call it
        self._retire_tasks: set[asyncio.Task[None]] = set()

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
        except Exception as error:  # of registry, files or Ray: the old version keeps serving
            log.warning("%s %s does not serve: %s", role, resolved_uri, error)
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
            log.warning("copy %s does not serve either: %s", copy, error)

    def _set_fault(self, role: str, fault: str | None) -> None:
        champion, canary = self.table.faults
        faults = (fault, canary) if role == "champion" else (champion, fault)
        self.table = replace(self.table, faults=faults)

    def _set_serving(self, role: str, serving: ServingVersion) -> None:
        before: ServingVersion | None = getattr(self.table, role)
        if before is not None and before.app != serving.app:
            self._replaced_at[before.app] = asyncio.get_running_loop().time()
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
        folder, fresh = await self._copy_bundle(source, copy)
        app, adopted = await self._start_version(copy, folder, source.version, fresh)
        try:
            info = await self._describe_version(source, folder, role)
            await self._hand_over(role, ServingVersion(app, copy, resolved_uri, info), folder)
        except BaseException:
            if not adopted:
                await self.starter.stop(app)
            raise
        self._retire()

    async def _copy_bundle(self, source: BundleSource, copy: str) -> tuple[Path, bool]:
        """Return the folder of a bundle's copy, and whether it is a new one: a copy in use is not made again."""
        current, folder = self._copies.current, self._copies.get_folder(copy)
        if copy == current:
            await asyncio.to_thread(verify_bundle, folder)
            return folder, False
        if copy in {s.copy for s in (self.table.champion, self.table.canary) if s}:
            return folder, False
        before = await asyncio.to_thread(read_changes, self._copies.get_folder(current)) if current else BundleChanges()
        source_values = source.to_json()
        return await asyncio.to_thread(
            self._copies.copy_bundle, source.folder, copy, before.deleted, source_values
        ), True

    async def _start_version(self, copy: str, folder: Path, version: str, fresh: bool) -> tuple[str, bool]:
        """Return the application of a running version, and whether it ran before."""
        prefix = f"retreever-{copy}-"
        for app in [] if fresh else await self.starter.list_running():
            if app.startswith(prefix):  # the canary, or a version that an earlier controller started
                return app, True
        app = f"{prefix}{secrets.token_hex(3)}"
        await self.starter.start(app, folder, version)
        return app, False

    async def _describe_version(self, source: BundleSource, folder: Path, role: str) -> VersionInfo:
        _, config = await asyncio.to_thread(load_model, folder)
        digest = await asyncio.to_thread(digest_model, folder)
        relevance = await asyncio.to_thread(Relevance.load, folder, digest)
        return VersionInfo(
            version=source.version,
            digest=digest[:16],
            depth=config.tree.depth,
            similarity=config.loss.similarity,
            encoder=config.encoder.name,
            uri=source.uri,
            run_id=source.run_id,
            run_url=source.run_url,
            data=source.data or config.data.name,
            metrics=source.metrics,
            documents=0,
            relevance=relevance.reports if relevance else None,
            share=self.desired.share if role == "canary" else 1 - self.desired.share,
        )

    async def _hand_over(self, role: str, new: ServingVersion, folder: Path) -> None:
        """Give a version every live document, most of them while writes go on, and let it serve."""
        current, version = self._copies.current, self.starter.connect(new.app)
        old = self._copies.get_folder(current) if current and current != new.copy else None
        if old is not None:
            await version.catch_up(await asyncio.to_thread(read_changes, old))
        async with self._write_lock:
            if old is not None:
                latest = await asyncio.to_thread(read_changes, old)
                await version.catch_up(latest)
                await asyncio.to_thread(record_deleted, folder, latest.deleted)
            info = new.info.model_copy(update={"documents": await version.count_passages()})
            if role == "champion":  # no await from here on: the current copy is always the one that serves
                self._copies.current = new.copy
            self._set_serving(role, replace(new, info=info))

    def _retire(self) -> None:
        task = asyncio.create_task(self._stop_unused())
        self._retire_tasks.add(task)
        task.add_done_callback(self._retire_tasks.discard)

    async def _stop_unused(self) -> None:
        """Stop the versions that no longer serve, once callers have noticed."""
        await asyncio.sleep(self.drain_s)
        async with self._swap_lock:
            serving = [s for s in (self.table.champion, self.table.canary) if s]
            drained = asyncio.get_running_loop().time() - self.drain_s
            self._replaced_at = {app: time for app, time in self._replaced_at.items() if time > drained}
            for app in await self.starter.list_running():
                if app not in self._replaced_at.keys() | {s.app for s in serving}:
                    await self.starter.stop(app)
            if not self._replaced_at:
                await asyncio.to_thread(self._copies.keep_only, {s.copy for s in serving})

    async def reload(self) -> None:
        """Look for other versions to serve; wait until they serve or have failed to load."""
        await _run_to_completion(self.reconcile(force=True))

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
            version = self.starter.connect(champion.app)
            reply: Reply = await getattr(version, method)(items)
            if isinstance(reply, RefusalError):
                return reply
            info = champion.info.model_copy(update={"documents": await version.count_passages()})
            self.table = replace(self.table, champion=replace(champion, info=info))
            if canary is not None and canary.app != champion.app:
                await self._change_canary(canary, champion, method, items)
            for app in self._replaced_at.keys() - {champion.app, canary and canary.app}:
                with contextlib.suppress(Exception):
                    await getattr(self.starter.connect(app), method)(items)
            return reply

    async def _change_canary(self, canary: ServingVersion, champion: ServingVersion, method: str, items: Any) -> None:
        """Change the canary's corpus alike; a canary that fails stops serving, and the table says why."""
        try:
            version = self.starter.connect(canary.app)
            if isinstance(await getattr(version, method)(items), RefusalError):  # its corpus differs
                await version.catch_up(await asyncio.to_thread(read_changes, self._copies.get_folder(champion.copy)))
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

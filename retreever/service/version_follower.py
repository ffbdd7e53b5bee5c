"""Follows the controller: opens the versions that should serve in this process, and lets go of those that should not.

Where the controller runs, in this process or in Ray's, is not known here.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Set
from dataclasses import replace
from pathlib import Path

from retreever.service.controller.version_table import ServingVersion, VersionTable
from retreever.service.gateway import Gateway, LiveVersion
from retreever.service.version.engine import Engine

SyncFunction = Callable[[Set[str]], Awaitable[VersionTable]]
OpenFunction = Callable[[Path, str], Engine]
_log = logging.getLogger(__name__)


class VersionFollower:
    """Keeps the versions of a gateway in line with the controller's table.

    Args:
        sync: tells the controller which copies this process reads, and returns the table.
        open_version: opens the bundle in a folder, as a version of that name.
    """

    def __init__(self, gateway: Gateway, sync: SyncFunction, open_version: OpenFunction):
        self._gateway, self._sync, self._open_version = gateway, sync, open_version
        self._live: dict[str, LiveVersion] = {}  # by copy
        self._read_before: frozenset[str] = frozenset()  # a search may still be under way there
        self._table = VersionTable()
        self._lock = asyncio.Lock()

    async def update(self) -> None:
        """Fetch the table, open its versions, and let them serve.

        Raises:
            Exception: the controller does not answer, or a version does not open; what served before goes on serving.
        """
        async with self._lock:
            table = await self._sync(self._live.keys() | self._read_before)
            if table.champion is None and self._table.champion is not None:
                table = replace(table, champion=self._table.champion)  # a new controller that has not looked yet
            self._gateway.faults = table.faults
            self._gateway.champion = await self._bring_up(table.champion)
            self._table = replace(table, canary=self._table.canary)
            self._gateway.canary = await self._bring_up(table.canary)
            self._table, self._read_before = table, frozenset(self._live)
            self._live = {v.copy: self._live[v.copy] for v in (table.champion, table.canary) if v}

    async def _bring_up(self, wanted: ServingVersion | None) -> LiveVersion | None:
        if wanted is None:
            return None
        if wanted.copy not in self._live:
            engine = await asyncio.to_thread(self._open_version, Path(wanted.folder), wanted.info.version)
            self._live[wanted.copy] = self._gateway.make_live(wanted.info, engine)
        self._live[wanted.copy].info = wanted.info
        return self._live[wanted.copy]

"""A replica that follows the controller: versions that open and fail to open, a controller that is lost."""

import asyncio

import pytest

from retreever.service.controller.version_table import ServingVersion, VersionTable
from retreever.service.gateway import Gateway
from retreever.service.http.service_metrics import ServiceMetrics
from retreever.service.refusal import RefusalError
from retreever.service.version_follower import VersionFollower
from tests.service.test_gateway import make_info


def serving(copy):
    return ServingVersion(copy, f"/copies/{copy}", copy, make_info(copy))


class Table:
    """A controller whose table the test sets; remembers which copies were named to it."""

    def __init__(self):
        self.table, self.named, self.opened, self.broken = VersionTable(), [], [], set()

    async def sync(self, copies):
        self.named.append(set(copies))
        if self.table is None:
            raise RefusalError(503, "the controller was lost")
        return self.table

    def open_version(self, folder, version):
        if version in self.broken:
            raise OSError("no memory is left")
        self.opened.append((str(folder), version))
        return object()


def test_versions_follow_the_table():
    async def play():
        told = Table()
        gateway = Gateway(None, ServiceMetrics())
        follower = VersionFollower(gateway, told.sync, told.open_version)
        await follower.update()
        assert gateway.champion is None
        told.table = VersionTable(serving("a"), serving("b"), (None, None))
        await follower.update()
        assert (gateway.champion.info.version, gateway.canary.info.version) == ("a", "b")
        champion, canary = gateway.champion, gateway.canary
        told.table = VersionTable(serving("b"), None, ("c: is damaged", None))
        await follower.update()
        assert gateway.champion is canary is not champion and gateway.canary is None
        assert gateway.faults[0] == "c: is damaged" and told.opened == [("/copies/a", "a"), ("/copies/b", "b")]
        await follower.update()
        await follower.update()
        assert told.named == [set(), set(), {"a", "b"}, {"a", "b"}, {"b"}]  # one look longer than they serve

    asyncio.run(play())


def test_what_serves_goes_on_serving_when_a_version_does_not_open_or_the_controller_is_lost():
    async def play():
        told = Table()
        gateway = Gateway(None, ServiceMetrics())
        follower = VersionFollower(gateway, told.sync, told.open_version)
        told.table = VersionTable(serving("a"))
        await follower.update()
        told.table, told.broken = VersionTable(serving("b"), serving("a")), {"b"}
        with pytest.raises(OSError, match="no memory"):
            await follower.update()
        assert gateway.champion.info.version == "a"
        told.table = None
        with pytest.raises(RefusalError, match="lost"):
            await follower.update()
        told.table = VersionTable()  # a new controller that has not looked yet
        await follower.update()
        assert gateway.champion.info.version == "a"
        told.table, told.broken = VersionTable(serving("b"), serving("c")), {"c"}
        with pytest.raises(OSError, match="no memory"):
            await follower.update()
        assert gateway.champion.info.version == "b" and gateway.canary is None

    asyncio.run(play())

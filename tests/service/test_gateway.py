"""The gateway: choice of the version, overload, time-outs, metrics."""

import asyncio
import random

import httpx

from retreever.service.contract import SearchAnswer
from retreever.service.gateway import Gateway, LiveVersion
from retreever.service.http.http_api import make_api
from retreever.service.http.service_metrics import ServiceMetrics
from retreever.service.refusal import RefusalError
from retreever.service.schema import VersionInfo


class Version:
    """A version that finds the same passages for every query."""

    def __init__(self, ids, seconds=0.0, fault=None):
        self.ids, self.seconds, self.fault, self.asked = ids, seconds, fault, 0

    async def search(self, asked):
        self.asked += len(asked)
        await asyncio.sleep(self.seconds)
        answer = SearchAnswer(f'{{"ids": "{self.ids}"}}'.encode(), 4, list(self.ids), {"search": 0.001})
        return [self.fault or answer for _ in asked]


class Metrics(ServiceMetrics):
    """Metrics that also keep what they are told about canaries."""

    def __init__(self):
        super().__init__()
        self.shares = []

    def observe_agreement(self, champion, canary, share):
        super().observe_agreement(champion, canary, share)
        self.shares.append(share)


def make_info(name, share=1.0):
    info = {"digest": "", "depth": 4, "similarity": "", "encoder": "", "uri": "", "run_id": None, "run_url": None}
    return VersionInfo(version=name, data=None, metrics={}, documents=0, share=share, **info)


def live(gateway, name, version, share, max_waiting=64):
    return LiveVersion(make_info(name, share), version, gateway.metrics, max_waiting)


def ask(gateway, requests, body=None, timeout_s=10.0):
    """Send requests at the same time; return their answers."""

    async def play():
        transport = httpx.ASGITransport(make_api(gateway, timeout_s=timeout_s, page=False))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            sent = [client.post("/v1/search", json={"query": "ba", **(body or {})}) for _ in range(requests)]
            replies = await asyncio.gather(*sent)
            await asyncio.sleep(0.05)
            return replies

    return asyncio.run(play())


def test_a_share_goes_to_the_canary_and_is_compared():
    random.seed(0)
    gateway = Gateway(None, Metrics())
    gateway.champion, gateway.canary = (
        live(gateway, "1", old := Version("abcd"), 0.7),
        live(gateway, "2", new := Version("abxy"), 0.3),
    )
    replies = ask(gateway, 60)
    assert {reply.status_code for reply in replies} == {200}
    assert 8 < new.asked < 30 and old.asked > 40
    assert len(gateway.metrics.shares) == new.asked and set(gateway.metrics.shares) == {0.5}
    new.asked = 0
    ask(gateway, 30, {"explain": True})
    assert new.asked == 0


def test_the_champion_answers_for_a_lost_canary():
    gateway = Gateway(None, ServiceMetrics())
    gateway.champion = live(gateway, "1", Version("ab"), 0.0)
    gateway.canary = live(gateway, "2", Version("", fault=RefusalError(503, "lost")), 1.0)
    assert [reply.json() for reply in ask(gateway, 3)] == [{"ids": "ab"}] * 3


def test_under_overload_some_are_answered_and_the_others_get_429():
    gateway = Gateway(None, ServiceMetrics())
    gateway.champion = live(gateway, "1", Version("ab", seconds=0.05), 1.0, max_waiting=32)
    replies = ask(gateway, 200)
    busy = [reply for reply in replies if reply.status_code == 429]
    assert {reply.status_code for reply in replies} == {200, 429} and len(busy) < 190
    assert all(reply.headers["retry-after"] == "1" and "busy" in reply.json()["detail"] for reply in busy)
    assert len(replies) - len(busy) >= 32


def test_a_slow_search_is_a_time_out():
    gateway = Gateway(None, ServiceMetrics())
    gateway.champion = live(gateway, "1", Version("ab", seconds=5), 1.0)
    (reply,) = ask(gateway, 1, timeout_s=0.1)
    assert reply.status_code == 504 and "more than 0.1 s" in reply.json()["detail"]


def test_before_a_version_serves_the_reason_is_given():
    gateway = Gateway(None, ServiceMetrics())
    gateway.faults = ("models:/retreever/3: level_10.npy: checksum differs", None)
    (reply,) = ask(gateway, 1)
    assert reply.status_code == 503 and "level_10.npy" in reply.json()["detail"] and reply.headers["retry-after"]

    async def ready():
        transport = httpx.ASGITransport(make_api(gateway, page=False))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get("/readyz"), await client.get("/healthz"), await client.get("/v1/model")

    readiness, health, model = asyncio.run(ready())
    assert readiness.status_code == 503 == model.status_code and health.status_code == 200
    assert "level_10.npy" in readiness.json()["fault"]

"""The gateway: choice of the version, overload, time-outs, metrics."""

import asyncio
import random

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from retreever.service.contract import SearchAnswer
from retreever.service.gateway import Gateway, LiveVersion
from retreever.service.http.http_api import make_api
from retreever.service.http.prometheus_metrics import ServiceMetrics, merge_metrics
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


def live(gateway, name, version, share, max_waiting=64):
    info = {"digest": "", "depth": 4, "similarity": "", "encoder": "", "uri": "", "run_id": None, "run_url": None}
    told = VersionInfo(version=name, data=None, metrics={}, documents=0, share=share, **info)
    return LiveVersion(told, version, gateway.metrics, max_waiting)


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


def samples(text, name):
    return {
        tuple(sorted(s.labels.items())): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
        if s.name == name
    }


def test_a_share_goes_to_the_canary_and_is_compared():
    random.seed(0)
    gateway = Gateway(None, ServiceMetrics())
    gateway.champion, gateway.canary = (
        live(gateway, "1", old := Version("abcd"), 0.7),
        live(gateway, "2", new := Version("abxy"), 0.3),
    )
    replies = ask(gateway, 60)
    assert {reply.status_code for reply in replies} == {200}
    assert 8 < new.asked < 30 and old.asked > 40
    text = gateway.metrics.render_text()
    (count,) = samples(text, "retreever_canary_agreement_count").values()
    assert samples(text, "retreever_canary_agreement_sum").popitem()[1] == pytest.approx(count / 2) and count > 0
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


def test_metrics_of_several_ingresses_are_told_apart():
    one, two = ServiceMetrics(), ServiceMetrics()
    one.requests.labels("/v1/search", "POST", 200).inc(3)
    two.requests.labels("/v1/search", "POST", 200).inc(4)
    two.batches.observe(5)
    found = samples(merge_metrics({"a": one.render_text(), "b": two.render_text()}), "retreever_requests_total")
    assert sorted(found.values()) == [3, 4] and {dict(labels)["replica"] for labels in found} == {"a", "b"}

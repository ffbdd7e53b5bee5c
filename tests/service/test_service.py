"""The whole service: Ray Serve on a free port, called over HTTP."""

import asyncio
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.open_loop import LoadGenerator
from retreever.bundle.retriever import Retreever
from retreever.system.workspace import Workspace
from retreever.tracking.model_registry import locate_model, register_bundle, roll_back_alias
from retreever.tracking.tracker import Tracker
from tests.support.ray_service import TOKEN, running

NEW = {"id": "new", "text": "ba be bi ba be bi"}
BEARER = {"authorization": f"Bearer {TOKEN}"}


def open_client(url):
    return httpx.Client(base_url=url, timeout=60, headers=BEARER)


def best(client, text=NEW["text"]):
    reply = client.post("/v1/search", json={"query": text, "k": 1})
    assert reply.status_code == 200, reply.text
    return reply.json()["hits"][0]["id"]


def list_listening(process):
    """Addresses at which a process listens."""
    return {c.laddr for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}


def check_processes(service):
    """A replica is an ordinary process without torch; HAProxy listens at the service's address alone."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    (replica,), (controller,) = service.replicas("Retriever"), service.replicas("Controller")
    assert replica.nice() == controller.nice() == before
    for process in (replica, controller):
        libraries = {Path(region.path).name for region in process.memory_maps()}
        assert not {name for name in libraries if name.startswith("libtorch")}, libraries
    (proxy,) = service.others("haproxy.cfg")
    assert [f"http://{ip}:{port}" for ip, port in list_listening(proxy)] == [service.url]


def test_a_bundle_is_served_over_http(served, tmp_path):
    workspace, bundle = served
    expected = [hit.id for hit in Retreever.load(bundle).search(["ba be bi"], 3)[0]]
    with running(workspace, tmp_path / "log", model=str(bundle)) as service, open_client(service.url) as client:
        answer = client.post("/v1/search", json={"query": "ba be bi", "k": 3})
        assert answer.status_code == 200 and [hit["id"] for hit in answer.json()["hits"]] == expected
        assert answer.json()["took_ms"] < 1000  # the first request: the replica starts warm
        assert client.get("/v1/model").json()["documents"] == 300
        assert client.get("/docs").status_code == 200 and client.get("/").status_code == 200
        named = client.get("/v1/model", headers={"x-request-id": "mine"})
        assert [value for name, value in named.headers.multi_items() if name == "x-request-id"] == ["mine"]
        refused = client.post("/v1/search", json={"query": "ba", "k": 0})
        assert refused.status_code == 422 and refused.json()["detail"][0]["loc"] == ["body", "k"]
        assert client.post("/v1/search", json={"query": "ba", "level": 5}).status_code == 422
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda n: client.post("/v1/search", json={"query": f"ba {n}"}), range(40)))
        assert {reply.status_code for reply in replies} == {200}

        assert client.post("/v1/documents", json={"documents": [NEW]}).json()["total"] == 301
        assert best(client) == "new"
        assert client.get("/v1/documents", params={"id": "new"}).json()["documents"][0]["text"] == NEW["text"]
        assert client.post("/v1/documents", json={"documents": [NEW]}).status_code == 409
        assert client.delete("/v1/documents", params={"id": "nobody"}).status_code == 404
        assert len(client.get("/v1/tree").json()["nodes"]) == 31
        until(lambda: "ray_retreever_stage_seconds_count" in client.get("/metrics").text, 30)
        reload = client.post("/v1/reload").json()
        assert reload["fault"] is None and reload["documents"] == 301
        if sys.platform == "linux":  # elsewhere there is no HAProxy
            check_processes(service)


@pytest.fixture
def registered(served, tmp_path):
    """A workspace with a registered version, its tracker, and a function that registers another version."""
    _, bundle = served
    place = Workspace.at(tmp_path / "workspace")
    tracker = Tracker.of(place)
    run = tracker.start(tracker.get_experiment(place), "served")

    def promote(damage=None):
        """Register the bundle again; `damage` changes its files before the alias points at it."""
        uri = register_bundle(bundle, run, tracker, alias="new", tags={"test/ndcg_at_10": "0.5", "data": "tiny"})
        if damage is not None:
            damage(locate_model(uri, place))
        before = tracker.client.get_registered_model("retreever").aliases.get("champion")
        if before:
            tracker.client.set_registered_model_alias("retreever", "previous", before)
        tracker.client.set_registered_model_alias("retreever", "champion", uri.rsplit("/", 1)[1])

    promote()
    return place, tracker, promote


def read_version(client):
    return client.get("/v1/model").json()["version"]


def until(done, seconds):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"nothing within {seconds} s"
        time.sleep(0.1)


def search_during(url, seconds, change, rate=8, **settings):
    """The outcome of searches that go on during a change."""

    async def play():
        done = asyncio.Event()
        load = asyncio.create_task(
            LoadGenerator(url, ["ba be", "so", "ti ta"], **settings).run_open_loop(rate, seconds, done)
        )
        await asyncio.sleep(2)
        await asyncio.to_thread(change)
        await asyncio.sleep(8)  # the replaced version has stopped
        done.set()
        return await load

    return asyncio.run(play())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_versions_are_swapped_and_rolled_back_without_a_failed_request(registered, tmp_path):
    place, tracker, promote = registered
    with running(place, tmp_path / "log") as service, open_client(service.url) as client:
        assert read_version(client) == "models:/retreever/1"
        assert client.get("/v1/model").json()["metrics"] == {"test/ndcg_at_10": 0.5}
        client.post("/v1/documents", json={"documents": [NEW]}).raise_for_status()

        def swap():
            promote()
            until(lambda: read_version(client) == "models:/retreever/2", 120)

        def back():
            roll_back_alias(tracker)
            until(lambda: read_version(client) == "models:/retreever/1", 120)

        for change in (swap, back):
            outcome = search_during(service.url, 180, change)
            assert outcome.failures == 0, outcome.faults
            assert set(outcome.versions) == {"models:/retreever/1", "models:/retreever/2"}
            assert best(client) == "new"

        def damaged():
            promote(lambda folder: (folder / "documents" / "documents.jsonl").write_text("{}"))
            until(lambda: client.get("/readyz").json()["fault"], 120)

        outcome = search_during(service.url, 180, damaged)
        assert outcome.failures == 0 and set(outcome.versions) == {"models:/retreever/1"}
        assert "documents.jsonl" in client.get("/v1/model").json()["fault"] and client.get("/readyz").json()["ready"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["Retriever", "Controller", "ServeController", "ProxyActor", "haproxy.cfg"])
def test_a_killed_process_is_replaced_and_callers_see_an_answer_or_when_to_try_again(served, tmp_path, kind):
    workspace = Workspace.at(tmp_path / "workspace")
    with running(workspace, tmp_path / "log", model=str(served[1])) as service, open_client(service.url) as client:

        def find():
            return service.replicas(kind) if kind in ("Retriever", "Controller") else service.others(kind)

        def kill():
            (process,) = find()
            process.kill()

        outcome = search_during(service.url, 60, kill)
        lost = {0} if kind == "haproxy.cfg" else set()  # connections that it held
        assert outcome.statuses.keys() <= {200, 503} | lost, outcome.faults
        until(lambda: len(find()) == 1, 60)
        outcome = search_during(service.url, 60, kill, retries=25)
        assert outcome.failures == 0 and outcome.statuses.keys() == {200}, outcome.faults
        until(lambda: client.post("/v1/documents", json={"documents": [NEW]}).status_code in (200, 409), 60)
        assert best(client) == "new"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_services_of_a_machine_answer_for_themselves_alone(served, tmp_path):
    one, two = (Workspace.at(tmp_path / name) for name in ("one", "two"))
    with running(one, tmp_path / "log1", model=str(served[1])) as first, open_client(first.url) as client:
        client.post("/v1/documents", json={"documents": [NEW]}).raise_for_status()
        with running(two, tmp_path / "log2", model=str(served[1])) as second, open_client(second.url) as other:
            assert best(client) == "new" != best(other)
            (replica,) = second.replicas("Retriever")
            replica.kill()
            end, statuses = time.monotonic() + 15, set()
            while time.monotonic() < end:
                reply = other.post("/v1/search", json={"query": NEW["text"], "k": 1})
                statuses.add(reply.status_code)
                assert reply.status_code != 200 or reply.json()["hits"][0]["id"] != "new"
            assert statuses <= {200, 503} and reply.status_code == 200
        assert best(client) == "new"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_documents_survive_the_death_of_everything(served, tmp_path):
    workspace = Workspace.at(tmp_path / "workspace")
    with running(workspace, tmp_path / "log", model=str(served[1])) as service, open_client(service.url) as client:
        client.post("/v1/documents", json={"documents": [NEW]}).raise_for_status()
        client.delete("/v1/documents", params={"id": "p0007"}).raise_for_status()
        service.kill()
    with running(workspace, tmp_path / "log", model=str(served[1])) as service, open_client(service.url) as client:
        assert best(client) == "new" and client.get("/v1/model").json()["documents"] == 300
        assert client.get("/v1/documents", params={"id": "p0007"}).status_code == 404
        assert client.get("/v1/documents", params={"id": "new"}).json()["documents"][0]["text"] == NEW["text"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_canary_answers_its_share_and_a_damaged_one_is_reported(served, tmp_path):
    workspace = Workspace.at(tmp_path / "workspace")
    other = shutil.copytree(served[1], tmp_path / "other")
    settings = {"model": str(served[1]), "canary": str(other), "canary_share": 0.5}
    with running(workspace, tmp_path / "log", **settings) as service, open_client(service.url) as client:
        until(lambda: client.get("/v1/model").json()["canary"], 120)
        outcome = asyncio.run(LoadGenerator(service.url, ["ba be", "so"]).run_closed_loop(4, 80))
        assert outcome.statuses == {200: 80} and all(count > 15 for count in outcome.versions.values())
        until(lambda: "ray_retreever_canary_agreement_count" in client.get("/metrics").text, 30)
        client.post("/v1/documents", json={"documents": [NEW]}).raise_for_status()
        assert {best(client) for _ in range(10)} == {"new"}
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with running(workspace, tmp_path / "log", **settings) as service, open_client(service.url) as client:
        until(lambda: client.get("/v1/model").json()["canary_fault"], 60)
        state = client.get("/v1/model").json()
        assert state["canary"] is None and "model.safetensors" in state["canary_fault"] and state["fault"] is None
        assert best(client) == "new"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_burst_brings_a_second_replica_and_only_200_and_429(served, tmp_path):
    workspace = Workspace.at(tmp_path / "workspace")
    with running(workspace, tmp_path / "log", model=str(served[1]), max_replicas=2) as service:

        def replicas(count, seconds):
            until(lambda: len(service.replicas("Retriever")) == count, seconds)

        outcome = search_during(service.url, 90, lambda: replicas(2, 40), rate=300, k=300)
        assert outcome.failures == 0 and set(outcome.statuses) <= {200, 429}, outcome.faults
        outcome = search_during(service.url, 120, lambda: replicas(1, 90), rate=4)
        assert outcome.statuses.keys() == {200}, outcome.faults

"""The service as it runs: Ray Serve on a free port, asked over HTTP."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import httpx

from retreever.retriever import Retreever
from tests.support.ray_service import TOKEN, running

NEW = {"id": "new", "text": "ba be bi ba be bi"}


def test_a_bundle_is_served_over_http(served, tmp_path):
    workspace, bundle = served
    expected = [hit.id for hit in Retreever.load(bundle).search(["ba be bi"], 3)[0]]
    other = shutil.copytree(bundle, tmp_path / "other")
    headers = {"authorization": f"Bearer {TOKEN}"}
    with (
        running(workspace, tmp_path / "log", model=str(bundle), canary=str(other), canary_share=0.5) as url,
        httpx.Client(base_url=url, timeout=30, headers=headers) as client,
    ):
        answer = client.post("/v1/search", json={"query": "ba be bi", "k": 3})
        assert answer.status_code == 200 and [hit["id"] for hit in answer.json()["hits"]] == expected
        assert answer.json()["took_ms"] < 1000  # the first request: the replica has warmed itself
        assert client.get("/v1/model").json()["documents"] == 300
        assert client.get("/docs").status_code == 200 and client.get("/").status_code == 200
        refused = client.post("/v1/search", json={"query": "ba", "k": 0})
        assert refused.status_code == 422 and refused.json()["detail"][0]["loc"] == ["body", "k"]
        assert client.post("/v1/search", json={"query": "ba", "level": 5}).status_code == 422
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda n: client.post("/v1/search", json={"query": f"ba {n}"}), range(40)))
        assert {reply.status_code for reply in replies} == {200}

        assert client.post("/v1/documents", json={"documents": [NEW]}).json()["total"] == 301
        found = client.post("/v1/search", json={"query": NEW["text"], "k": 1}).json()
        assert found["hits"][0]["id"] == "new"
        assert client.get("/v1/documents", params={"id": "new"}).json()["documents"][0]["text"] == NEW["text"]
        assert client.post("/v1/documents", json={"documents": [NEW]}).status_code == 409
        assert client.delete("/v1/documents", params={"id": "nobody"}).status_code == 404
        assert len(client.get("/v1/tree").json()["nodes"]) == 31
        assert "retreever_stage_seconds" in client.get("/metrics").text

        (bundle / "model.json").rename(bundle / "gone.json")  # what is served is a copy
        state = client.post("/v1/reload").json()
        assert "model.json" in state["fault"] or "neither" in state["fault"]
        assert client.get("/readyz").json()["ready"] and "fault" in client.get("/readyz").json()
        (bundle / "gone.json").rename(bundle / "model.json")
        assert client.post("/v1/reload").json()["fault"] is None
        assert client.post("/v1/search", json={"query": NEW["text"], "k": 1}).json()["hits"][0]["id"] == "new"

"""Live documents over HTTP: tokens, and changes that the next search and a restart see."""

import json

import pytest
from fastapi.testclient import TestClient

from retreever.bundle.retriever import Retreever
from tests.support.local_service import local_service

METADATA = {"half": 7, "tags": ["x", None]}
NEW = {
    "id": "a/../b?c&d #1 ☃",
    "text": "ba be bi ba be bi",
    "title": "so",
    "metadata": METADATA,
}


@pytest.fixture
def writing(live, bearer):
    app, _ = local_service(live)
    with TestClient(app, headers=bearer) as opened:
        yield opened


def search_ids(client, **asked):
    reply = client.post("/v1/search", json={"query": NEW["text"], "k": 1, **asked})
    assert reply.status_code == 200, reply.text
    return [hit["id"] for hit in reply.json()["hits"]]


def test_a_document_lives_and_dies(writing, live):
    added = writing.post("/v1/documents", json={"documents": [NEW, {"id": "other", "text": "so sa"}]})
    assert added.status_code == 200 and added.json()["changed"] == 2 and added.json()["total"] == 302
    for where in (None, {"half": 7}, {"tags": "x"}):
        assert search_ids(writing, where=where) == [NEW["id"]]
    assert writing.get("/v1/documents", params={"id": NEW["id"]}).json()["documents"] == [NEW]
    again, _ = local_service(live)  # as after a restart
    with TestClient(again) as restarted:
        assert search_ids(restarted) == [NEW["id"]]
    gone = writing.delete("/v1/documents", params={"id": [NEW["id"], "p0007"]})
    assert gone.json()["changed"] == 2 and gone.json()["total"] == 300
    assert search_ids(writing) != [NEW["id"]] and search_ids(writing, where={"half": 7}) == []
    assert writing.get("/v1/documents", params={"id": NEW["id"]}).status_code == 404
    assert len(Retreever.load(live, encoder=False).index) == 300


def test_a_refused_change_changes_nothing(writing):
    clash = writing.post("/v1/documents", json={"documents": [NEW, {"id": "p0001", "text": "ba"}]})
    assert clash.status_code == 409 and "p0001" in clash.json()["detail"]
    twice = writing.post("/v1/documents", json={"documents": [NEW, NEW]})
    assert twice.status_code == 409 and "twice" in twice.json()["detail"]
    missing = writing.delete("/v1/documents", params={"id": ["p0001", "nobody"]})
    assert missing.status_code == 404 and "nobody" in missing.json()["detail"][0]["msg"]
    assert writing.get("/v1/documents", params={"limit": 1}).json()["total"] == 300


def test_documents_page_by_page(writing):
    writing.delete("/v1/documents", params={"id": ["p0002", "p0299"]})
    names, after = [], -1
    while after is not None:
        page = writing.get("/v1/documents", params={"after": after, "limit": 70}).json()
        names += [document["id"] for document in page["documents"]]
        after = page["next"]
    assert names == [f"p{n:04d}" for n in range(299) if n != 2] and page["total"] == 298


@pytest.mark.parametrize("token", [None, "", "Bearer", "Bearer wrong", "Basic secret", "Bearer secret2", "bearer ü"])
def test_writing_needs_the_token(client, token):
    headers = {} if token is None else {"authorization": token.encode()}
    for reply in (
        client.post("/v1/documents", json={"documents": [NEW]}, headers=headers),
        client.delete("/v1/documents", params={"id": "p0001"}, headers=headers),
        client.post("/v1/reload", headers=headers),
    ):
        assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"
    assert client.get("/v1/documents", params={"id": "p0001"}).status_code == 200


def test_without_a_token_nobody_writes(live, bearer):
    app, _ = local_service(live, token=None)
    with TestClient(app) as off:
        reply = off.post("/v1/documents", json={"documents": [NEW]}, headers=bearer)
        assert reply.status_code == 403 and "RETREEVER_WRITE_TOKEN" in reply.json()["detail"]
        assert off.delete("/v1/documents", params={"id": "p0001"}, headers=bearer).status_code == 403


@pytest.mark.parametrize(
    ("document", "rule"),
    [
        ({"id": "x"}, "required"),
        ({"id": "", "text": "ba"}, "at least 1 character"),
        ({"id": "x", "text": " "}, "must not be empty"),
        ({"id": "x\0", "text": "ba"}, "null characters"),
        ({"id": "x", "text": "ba\0"}, "null characters"),
        ({"id": "x" * 513, "text": "ba"}, "at most 512 characters"),
        ({"id": "x", "text": "b" * 100_001}, "at most 100000 characters"),
        ({"id": "x", "text": "ba", "metadata": {"a": {"b": 1}}}, "valid"),
        ({"id": "x", "text": "ba", "metadata": {"a\0": 1}}, "null characters"),
        ({"id": "x", "text": "ba", "metadata": {"a": float("inf")}}, "finite number"),
        ({"id": "x", "text": "ba", "metadata": {"a": [float("nan")]}}, "finite number"),
        ({"id": "x", "text": "ba", "_id": "y"}, "not permitted"),
    ],
)
def test_a_bad_document_is_refused_with_its_rule(client, bearer, document, rule):
    body = json.dumps({"documents": [document]})
    reply = client.post("/v1/documents", content=body, headers={**bearer, "content-type": "application/json"})
    assert reply.status_code == 422 and any(rule in fault["msg"].lower() for fault in reply.json()["detail"])
    assert client.post("/v1/documents", json={"documents": []}, headers=bearer).status_code == 422
    assert client.delete("/v1/documents", headers=bearer).status_code == 422

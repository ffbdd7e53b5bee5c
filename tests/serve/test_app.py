"""The HTTP interface around a bundle, without Ray: answers, and refusals that name field and rule."""

import json
import math

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from retreever.errors import EncoderError
from retreever.retriever import Retreever
from serve.app import AppArguments, api, with_endpoints
from tests.support.bundles import tiny_bundle

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def retreever(served):
    return Retreever.load(served[1])


@pytest.fixture(scope="module")
def client(retreever):
    return TestClient(with_endpoints(api(), retreever))


def test_a_search_answers_as_the_library_does(client, retreever):
    reply = client.post("/v1/search", json={"query": "ba be bi", "k": 3, "level": 2})
    assert reply.status_code == 200
    answer = reply.json()
    expected = retreever.search(["ba be bi"], 3, 2)[0]
    assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in expected]
    assert [hit["text"] for hit in answer["hits"]] == [hit.text for hit in expected]
    assert [hit["score"] for hit in answer["hits"]] == [hit.score for hit in expected]
    assert answer["query"] == "ba be bi" and answer["level"] == 2 and answer["took_ms"] > 0
    assert retreever.digest.startswith(answer["model"]["digest"])


def test_ten_passages_of_the_finest_level_where_nothing_is_said(client):
    answer = client.post("/v1/search", json={"query": "ba"}).json()
    assert len(answer["hits"]) == 10 and answer["level"] == 4
    assert client.post("/v1/search", json={"query": "ba", "level": None}).json()["level"] == 4


def test_more_passages_than_there_are_returns_all(client):
    hits = client.post("/v1/search", json={"query": "ba", "k": 1000}).json()["hits"]
    assert len(hits) == 300 and all(math.isfinite(hit["score"]) for hit in hits)


@pytest.mark.parametrize("query", ["a" * 20_000, "☃ 𝄞", "\u200b", "\x01", "'; DROP TABLE", "<script>", "%s%n{0}"])
def test_unusual_queries_are_answered(client, query):
    answer = client.post("/v1/search", json={"query": query, "k": 1})
    assert answer.status_code == 200 and answer.json()["query"] == query


def test_health(client, retreever):
    reply = client.get("/healthz").json()
    assert reply["status"] == "ok" and reply["documents"] == 300
    assert reply["model"]["depth"] == 4 and reply["model"]["similarity"] == "bhattacharyya"


def test_the_interface_is_documented(client):
    assert client.get("/docs").status_code == 200
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {"/v1/search", "/healthz"}
    assert schema["components"]["schemas"]["SearchRequest"]["properties"]["k"]["maximum"] == 1000


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        ({}, "query", "Field required"),
        ({"query": ""}, "query", "at least 1 character"),
        ({"query": " \n\t"}, "query", "must not be empty"),
        ({"query": "a\0b"}, "query", "must not hold null characters"),
        ({"query": "a\ud800"}, "query", "unicode"),
        ({"query": "a" * 20_001}, "query", "at most 20000 characters"),
        ({"query": 5}, "query", "valid string"),
        ({"query": ["ba"]}, "query", "valid string"),
        ({"query": None}, "query", "valid string"),
        ({"query": "ba", "k": 0}, "k", "greater than or equal to 1"),
        ({"query": "ba", "k": -3}, "k", "greater than or equal to 1"),
        ({"query": "ba", "k": 1001}, "k", "less than or equal to 1000"),
        ({"query": "ba", "k": "ten"}, "k", "valid integer"),
        ({"query": "ba", "k": 2.5}, "k", "valid integer"),
        ({"query": "ba", "k": True}, "k", "valid integer"),
        ({"query": "ba", "k": None}, "k", "valid integer"),
        ({"query": "ba", "k": math.nan}, "k", "valid integer"),
        ({"query": "ba", "k": math.inf}, "k", "valid integer"),
        ({"query": "ba", "level": 0}, "level", "greater than or equal to 1"),
        ({"query": "ba", "level": 5}, "level", "must lie within [1, 4]"),
        ({"query": "ba", "level": 10**30}, "level", "must lie within [1, 4]"),
        ({"query": "ba", "level": "finest"}, "level", "valid integer"),
        ({"query": "ba", "top_k": 3}, "top_k", "not permitted"),
    ],
)
def test_a_bad_request_is_refused_with_field_and_rule(client, body, field, rule):
    reply = client.post("/v1/search", content=json.dumps(body), headers=JSON)
    assert reply.status_code == 422
    (fault,) = reply.json()["detail"]
    assert fault["loc"] == ["body", field] and rule in fault["msg"]


@pytest.mark.parametrize(
    "body",
    [b"", b"query", b"[]", b"null", b'"ba"', b'{"query": "ba"', b'{"query": "\xff"}', b"[" * 100_000,
     b'{"query": "ba", "k": 1' + b"0" * 5000 + b"}", b'{"query": "ba", "\\ud800": 1}'],
    ids=lambda body: repr(body[:24]),
)  # fmt: skip
def test_a_body_that_is_no_request_is_refused(client, body):
    reply = client.post("/v1/search", content=body, headers=JSON)
    assert reply.status_code in (400, 422) and reply.json()["detail"]
    assert "Traceback" not in reply.text


def test_a_compact_index_is_asked_at_its_only_level(served):
    folder = served[1].parent.parent  # where the encoder is
    compact = Retreever.load(tiny_bundle(folder, served[0], "compact", index__compact=True))
    client = TestClient(with_endpoints(api(), compact))
    assert client.post("/v1/search", json={"query": "ba"}).json()["level"] == 4
    reply = client.post("/v1/search", json={"query": "ba", "level": 2})
    assert reply.status_code == 422 and "must lie within [4, 4]" in reply.text


def test_all_faults_are_reported_at_once(client):
    detail = client.post("/v1/search", json={"query": "", "k": 0, "level": 0, "x": 1}).json()["detail"]
    assert {fault["loc"][1] for fault in detail} == {"query", "k", "level", "x"}


def test_a_query_the_encoder_cannot_read_is_the_caller_s_fault(client, retreever, monkeypatch):
    def unreadable(*arguments):
        raise EncoderError("query 0: no token is left of 'ba'")

    monkeypatch.setattr(retreever, "search", unreadable)
    reply = client.post("/v1/search", json={"query": "ba"})
    assert reply.status_code == 422 and "no token is left" in reply.json()["detail"][0]["msg"]


def test_other_methods_and_paths(client):
    assert client.get("/v1/search").status_code == 405
    assert client.get("/nothing").status_code == 404


def test_arguments_of_the_application_are_typed():
    assert AppArguments(model="bundle").replicas == 1
    for wrong in ({}, {"model": "bundle", "replicas": 0}, {"model": "bundle", "replica": 1}):
        with pytest.raises(ValidationError):
            AppArguments(**wrong)

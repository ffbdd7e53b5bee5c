"""The HTTP interface around a bundle, without Ray: answers, and refusals that name field and rule."""

import asyncio
import json
import math

import numpy as np
import pytest
from fastapi.testclient import TestClient

from retreever.bundle.retriever import Retreever
from retreever.service.http.body_limit import BodyLimit
from retreever.service.http.own_requests import APPLICATION_HEADER, OwnRequests
from retreever.service.http.request_log import ACCESS_LOG
from retreever.service.http.service_metrics import select_metrics
from retreever.service.schema import MAX_BODY_BYTES
from tests.support.local_service import local_service

JSON = {"content-type": "application/json"}
VALID_JSON = (b"", b"[]", b"null", b'"ba"', b'{"query": "ba", "\\ud800": 1}')


@pytest.fixture(scope="module")
def retreever(served):
    return Retreever.load(served[1])


def test_a_search_answers_as_the_library_does(client, retreever):
    reply = client.post("/v1/search", json={"query": "ba be bi", "k": 3, "level": 2})
    assert reply.status_code == 200
    answer = reply.json()
    expected = retreever.search(["ba be bi"], 3, 2)[0]
    assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in expected]
    assert [hit["text"] for hit in answer["hits"]] == [hit.text for hit in expected]
    assert [hit["score"] for hit in answer["hits"]] == [hit.score for hit in expected]
    assert [hit["metadata"] for hit in answer["hits"]] == [hit.metadata for hit in expected]
    assert answer["query"] == "ba be bi" and answer["level"] == 2 and answer["took_ms"] > 0
    assert retreever.digest.startswith(answer["model"]["digest"]) and answer["model"]["version"] == "tiny/1"
    assert "flow" not in answer and "why" not in answer["hits"][0]


def test_many_queries_are_answered_in_their_order(client):
    queries = [f"{a} {b}" for a in ("ba", "so", "ti") for b in ("be", "ka")]
    answer = client.post("/v1/search", json={"queries": queries, "k": 2}).json()
    assert [found["query"] for found in answer["results"]] == queries
    for found in answer["results"]:
        alone = client.post("/v1/search", json={"query": found["query"], "k": 2}).json()
        assert [hit["id"] for hit in found["hits"]] == [hit["id"] for hit in alone["hits"]]


def test_ten_passages_of_the_finest_level_where_nothing_is_said(client):
    answer = client.post("/v1/search", json={"query": "ba"}).json()
    assert len(answer["hits"]) == 10 and answer["level"] == 4
    assert client.post("/v1/search", json={"query": "ba", "level": None}).json()["level"] == 4


def test_more_passages_than_there_are_returns_all(client):
    hits = client.post("/v1/search", json={"query": "ba", "k": 1000}).json()["hits"]
    assert len(hits) == 300 and all(math.isfinite(hit["score"]) for hit in hits)


@pytest.mark.parametrize(("most", "level"), [(8, 1), (16, 2), (31, 2), (10**9, 4)])
def test_max_bytes_chooses_the_finest_level_that_fits(client, retreever, most, level):
    size = np.dtype(retreever.index.layout.dtype).itemsize
    answer = client.post("/v1/search", json={"query": "ba", "max_bytes": most * size // 4}).json()
    assert answer["level"] == level


def test_budget_ms_chooses_a_level_by_what_searches_took(client):
    assert client.post("/v1/search", json={"query": "ba", "budget_ms": 1e9}).json()["level"] == 4
    assert client.post("/v1/search", json={"query": "ba", "budget_ms": 1e-9}).json()["level"] == 1


def test_where_keeps_to_passages_with_those_values(client):
    def ids(where):
        answer = client.post("/v1/search", json={"query": "ba", "k": 1000, "where": where})
        return {int(hit["id"][1:]) for hit in answer.json()["hits"]}

    assert ids({"half": 1}) == set(range(1, 300, 2))
    assert ids({"half": [0, 1]}) == set(range(300)) == ids({})
    assert (
        ids({"half": 7}) == ids({"none": 1}) == ids({"half": "1"}) == ids({"half": True}) == ids({"half": []}) == set()
    )


def test_an_explained_search_says_where_it_went_and_why(client):
    answer = client.post("/v1/search", json={"query": "ba be", "k": 2, "level": 3, "explain": True}).json()
    assert answer["flow"][0] == {"id": 0, "mass": 1.0}
    for hit in answer["hits"]:
        assert [node["level"] for node in hit["why"]["path"]] == [1, 2, 3] and hit["why"]["leaves"]
        assert hit["why"]["parting"] in (0, *(node["id"] for node in hit["why"]["path"]))


def test_every_hit_has_its_relevance_and_the_model_says_how_far_it_is_off(client, retreever):
    asked = {"query": "ba be bi", "k": 3}
    hits = client.post("/v1/search", json=asked).json()["hits"]
    assert [hit["relevance"] for hit in hits] == [hit.relevance for hit in retreever.search(["ba be bi"], 3)[0]]
    assert all(0 <= hit["relevance"] <= 1 for hit in hits)
    for other in ({"level": 2}, {"where": {"half": 0}}):
        assert {hit["relevance"] for hit in client.post("/v1/search", json=asked | other).json()["hits"]} == {None}
    report = client.get("/v1/model").json()["relevance"]
    assert report == {"4": retreever.relevance.reports[4].model_dump()}
    described = client.get("/openapi.json").json()["components"]["schemas"]["SearchHit"]["properties"]["relevance"]
    assert "probability" in described["description"] and described["anyOf"][0] == {
        "type": "number", "minimum": 0, "maximum": 1,
    }  # fmt: skip


def test_a_hybrid_search_ranks_by_words_too_and_explains_them(client, retreever):
    asked = {"query": "ba bi ka be", "k": 5}  # "be" is a stop word
    for hybrid in ("auto", "off", 0, 3.5):
        answer = client.post("/v1/search", json=asked | {"hybrid": hybrid}).json()
        expected = retreever.search([asked["query"]], 5, hybrid=hybrid)[0]
        assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in expected]
        assert [hit["score"] for hit in answer["hits"]] == [hit.score for hit in expected]
        assert "words" not in answer["hits"][0]
    for hit in client.post("/v1/search", json=asked | {"hybrid": 3.5, "explain": True}).json()["hits"]:
        assert set(hit["words"]) == {"ba", "bi", "ka"} & set(f"{hit['title']} {hit['text']}".split())
        assert all(0 < added < hit["score"] for added in hit["words"].values())
    plain = client.post("/v1/search", json=asked | {"explain": True}).json()["hits"]
    assert {hit["words"] for hit in plain} == {None}


def test_embed_gives_probabilities_of_any_level(client, retreever):
    for level in (1, 3, None):
        asked = {"texts": ["ba be", "so"], "level": level, "kind": "passage"}
        answer = client.post("/v1/embed", json=asked).json()
        assert answer["dimensions"] == 2 ** (level or 4)
        assert np.allclose(answer["vectors"], retreever.embed(["ba be", "so"], "passage", level), atol=1e-5)


def test_the_tree_and_its_nodes(client):
    tree = client.get("/v1/tree").json()
    assert tree["depth"] == 4 and len(tree["nodes"]) == 31
    assert tree["sharpness"] > 1 and tree["nodes"][3]["name"] is None
    assert client.get("/v1/nodes/3").json()["parent"] == 1
    for unknown in (31, 2**53):
        assert client.get(f"/v1/nodes/{unknown}").status_code == 404
    for no_number in ("-1", "x", str(2**70), "1.5"):
        assert client.get(f"/v1/nodes/{no_number}").status_code == 422


def test_model_health_and_readiness(client, retreever):
    model = client.get("/v1/model").json()
    assert model["version"] == "tiny/1" and model["documents"] == 300 and model["fault"] is None
    assert retreever.digest.startswith(model["digest"]) and model["canary"] is None
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"ready": True, "version": "tiny/1", "fault": None}


def test_metrics_are_kept_by_ray_and_those_of_the_service_are_shown(client):
    reply = client.get("/metrics")
    assert reply.status_code == 503 and "not part of a cluster" in reply.json()["detail"]
    text = "# HELP ray_retreever_requests answers\n# TYPE ray_retreever_requests counter\n"
    own = text + 'ray_retreever_requests_total{path="/v1/search"} 3.0\n'
    assert select_metrics(own + '# HELP ray_tasks x\nray_tasks{State="OK"} 1\n') == own


def read_records(caplog):
    return [vars(record) for record in caplog.records if record.name == ACCESS_LOG.name]


def test_every_request_is_logged_with_what_answered_it_and_without_its_texts(client, caplog):
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"x-request-id": "mine", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    with caplog.at_level("INFO", ACCESS_LOG.name):
        client.post("/v1/search", json={"query": "ba be bi", "level": 2}, headers=headers)
        client.request("INVENTED", "/v1/search", headers={"x-request-id": "a" * 200})
        client.get("/healthz")
    searched, invented = read_records(caplog)
    told = {"request_id": "mine", "trace_id": trace, "path": "/v1/search", "method": "POST", "status": 200}
    assert told.items() <= searched.items() and searched["version"] == "tiny/1" and searched["level"] == 2
    assert searched["ms"] >= searched["search_ms"] > 0 and searched["encode_ms"] > 0 <= searched["wait_ms"]
    assert "ba be" not in str(searched)
    assert invented["method"] == "other" and invented["status"] == 405 and len(invented["request_id"]) == 32


def test_a_recorded_search_names_the_trace_of_its_caller(live):
    recorded = []
    app, _ = local_service(live, record_search=lambda *search: recorded.append(search))
    with TestClient(app) as opened:
        opened.post("/v1/search", json={"query": "ba"}, headers={"traceparent": "nonsense"})
        assert opened.post("/v1/search", json={"query": ""}).status_code == 422
    ((asked, answer, trace_id),) = recorded
    assert asked.texts == ["ba"] and len(answer.ids) == 10 and trace_id == ""


def test_a_request_of_another_service_is_refused(live):
    app, _ = local_service(live)
    app.add_middleware(OwnRequests, application="retreever-8000")
    with TestClient(app) as opened:
        assert opened.get("/healthz", headers={APPLICATION_HEADER: "retreever-8000"}).status_code == 200
        refused = opened.get("/healthz", headers={APPLICATION_HEADER: "retreever-9000"})
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        assert opened.get("/healthz").status_code == 200


def test_a_body_that_comes_too_slowly_is_refused():
    async def play():
        async def receive():
            await asyncio.sleep(5)

        sent = []

        async def send(message):
            sent.append(message)

        await BodyLimit(None, 100, max_seconds=0.05)({"type": "http", "headers": []}, receive, send)
        assert sent[0]["status"] == 408 and b"within 0.05 s" in sent[1]["body"]

    asyncio.run(play())


def test_the_interface_is_documented(client):
    assert client.get("/docs").status_code == 200
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {
        "/v1/search", "/v1/embed", "/v1/documents", "/v1/tree", "/v1/nodes/{id}", "/v1/model", "/v1/reload",
        "/healthz", "/readyz", "/metrics",
    }  # fmt: skip
    assert schema["components"]["schemas"]["SearchRequest"]["properties"]["k"]["maximum"] == 1000


@pytest.mark.parametrize("query", ["a" * 20_000, "☃ 𝄞", "\u200b", "\x01", "'; DROP TABLE", "<script>", "%s%n{0}"])
def test_unusual_queries_are_answered(client, query):
    answer = client.post("/v1/search", json={"query": query, "k": 1})
    assert answer.status_code == 200 and answer.json()["query"] == query


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        ({"query": ""}, "query", "at least 1 character"),
        ({"query": " \n\t"}, "query", "must not be empty"),
        ({"query": "a\0b"}, "query", "must not hold null characters"),
        ({"query": "a\ud800"}, "query", "unicode"),
        ({"query": "a" * 20_001}, "query", "at most 20000 characters"),
        ({"query": "a" * 10**6}, "query", "at most 20000 characters"),
        ({"query": 5}, "query", "valid string"),
        ({"query": ["ba"]}, "query", "valid string"),
        ({"queries": "ba"}, "queries", "valid list"),
        ({"queries": []}, "queries", "at least 1 item"),
        ({"queries": ["ba"] * 65}, "queries", "at most 64 items"),
        ({"query": "ba", "k": 0}, "k", "greater than or equal to 1"),
        ({"query": "ba", "k": -3}, "k", "greater than or equal to 1"),
        ({"query": "ba", "k": 10**9}, "k", "less than or equal to 1000"),
        ({"query": "ba", "k": "ten"}, "k", "valid integer"),
        ({"query": "ba", "k": 2.5}, "k", "valid integer"),
        ({"query": "ba", "k": True}, "k", "valid integer"),
        ({"query": "ba", "k": None}, "k", "valid integer"),
        ({"query": "ba", "k": math.nan}, "k", "valid integer"),
        ({"query": "ba", "k": math.inf}, "k", "valid integer"),
        ({"query": "ba", "level": 0}, "level", "greater than or equal to 1"),
        ({"query": "ba", "level": 99}, "level", "must lie within [1, 4]"),
        ({"query": "ba", "level": 10**30}, "level", "must lie within [1, 4]"),
        ({"query": "ba", "level": "finest"}, "level", "valid integer"),
        ({"query": "ba", "max_bytes": 3}, "max_bytes", "the smallest vector takes"),
        ({"query": "ba", "budget_ms": 0}, "budget_ms", "greater than 0"),
        ({"query": "ba", "budget_ms": math.nan}, "budget_ms", "finite number"),
        ({"query": "ba", "where": {"a": {"b": 1}}}, "where", "valid"),
        ({"query": "ba", "where": {"a\ud800": 1}}, "where", "unicode"),
        ({"query": "ba", "budget_ms": "5"}, "budget_ms", "valid number"),
        ({"query": "ba", "hybrid": "on"}, "hybrid", "'auto', 'off' or 'rrf'"),
        ({"query": "ba", "hybrid": -1}, "hybrid", "'auto', 'off' or 'rrf'"),
        ({"query": "ba", "explain": "true"}, "explain", "valid boolean"),
        ({"query": "ba", "explain": 1}, "explain", "valid boolean"),
        ({"query": "ba", "top_k": 3}, "top_k", "not permitted"),
    ],
)
def test_a_bad_request_is_refused_with_field_and_rule(client, body, field, rule):
    reply = client.post("/v1/search", content=json.dumps(body), headers=JSON)
    assert reply.status_code == 422
    fault = reply.json()["detail"][0]
    assert fault["loc"][:2] == ["body", field] and rule in fault["msg"]


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ({}, "either query or queries"),
        ({"query": None}, "either query or queries"),
        ({"query": "ba", "queries": ["ba"]}, "either query or queries"),
        ({"query": "ba", "level": 1, "max_bytes": 100}, "only one of level"),
        ({"queries": ["ba"] * 64, "k": 1000}, "at most 10000, got 64 times 1000"),
    ],
)
def test_fields_that_contradict_one_another(client, body, rule):
    reply = client.post("/v1/search", json=body)
    assert reply.status_code == 422 and rule in reply.json()["detail"][0]["msg"]


@pytest.mark.parametrize(
    "body",
    [b"", b"query", b"[]", b"null", b'"ba"', b'{"query": "ba"', b'{"query": "\xff"}', b"[" * 100_000,
     b'{"query": "ba", "k": 1' + b"0" * 5000 + b"}", b'{"query": "ba", "\\ud800": 1}', b"\x00", b"\xed\xa0\x80"],
    ids=lambda body: repr(body[:24]),
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/search", "/v1/embed"])
def test_a_body_that_is_no_request_is_refused(client, path, body):
    reply = client.post(path, content=body, headers=JSON)
    assert reply.status_code == (422 if body in VALID_JSON else 400) and reply.json()["detail"]
    assert "Traceback" not in reply.text


def test_a_body_that_is_too_large_is_refused_announced_or_not(client):
    body = b'{"query": "' + b"a" * MAX_BODY_BYTES + b'"}'
    assert client.post("/v1/search", content=body, headers=JSON).status_code == 413
    parts = (body[start : start + 65536] for start in range(0, len(body), 65536))
    reply = client.post("/v1/search", content=parts, headers=JSON)
    assert reply.status_code == 413 and "at most" in reply.json()["detail"]
    assert client.post("/v1/search", json={"query": "ba"}).status_code == 200


def test_all_faults_are_reported_at_once(client):
    detail = client.post("/v1/search", json={"query": "", "k": 0, "level": 0, "x": 1}).json()["detail"]
    assert {fault["loc"][1] for fault in detail} == {"query", "k", "level", "x"}


def test_other_methods_and_paths(client):
    assert client.get("/v1/search").status_code == 405
    for path in ("/nothing", "/page/../../../etc/passwd", "/page/%2e%2e/app.py", "/v1/nodes/..%2f..%2fetc"):
        assert client.get(path).status_code in (404, 422)

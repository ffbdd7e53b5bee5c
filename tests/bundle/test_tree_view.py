"""The tree as the page shows it: nodes, the flow of a query, why a passage was found."""

from itertools import pairwise

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from retreever.bundle.retriever import Retreever
from retreever.bundle.tree_view import explain_hits, make_node_view, make_tree_view, trace_query
from retreever.service.http.static_page import mount_page


@pytest.fixture(scope="module")
def retreever(served):
    return Retreever.load(served[1])


def test_every_node_is_there_with_words_and_size(retreever):
    view = make_tree_view(retreever)
    assert view.depth == 4 and view.passages == view.sampled == 300
    assert [node.id for node in view.nodes] == list(range(31))
    assert [node.level for node in view.nodes] == [0] + [1] * 2 + [2] * 4 + [3] * 8 + [4] * 16
    assert view.nodes[0].words == [] and any(node.words for node in view.nodes)
    assert sum(node.size for node in view.nodes if node.level == 4) == pytest.approx(300, rel=1e-2)


def test_a_node_has_neighbours_and_examples(retreever):
    root, middle, leaf = (make_node_view(retreever, node) for node in (0, 5, 30))
    assert (root.parent, root.children, middle.parent, middle.children) == (None, [1, 2], 2, [11, 12])
    assert (leaf.parent, leaf.children) == (14, []) and root.examples == []
    for view in (middle, leaf):
        assert len(view.examples) == 5
        assert [e.probability for e in view.examples] == sorted((e.probability for e in view.examples), reverse=True)
        found = retreever.embed([view.examples[0].text], "passage", view.level)[0]
        assert found[view.id - (2**view.level - 1)] == pytest.approx(view.examples[0].probability, abs=1e-2)


@pytest.mark.parametrize("node", [-1, 31, 10**9])
def test_a_node_that_is_not_there_is_a_key_error(retreever, node):
    with pytest.raises(KeyError, match="must be a whole number in"):
        make_node_view(retreever, node)


def test_a_flow_is_the_distribution_of_the_query(retreever):
    masses = {node.id: node.mass for node in trace_query(retreever, "ba be bi")}
    for level in range(1, 5):
        expected = retreever.embed(["ba be bi"], "query", level)[0]
        start = 2**level - 1
        for i, probability in enumerate(expected.tolist()):
            assert masses.get(start + i) == pytest.approx(probability, rel=1e-3) or probability < 0.11 / 2**level
    assert masses[0] == pytest.approx(1, abs=1e-4) and len(masses) > 10


@pytest.mark.parametrize("level", [1, 3, None])
def test_an_explanation_leads_to_where_the_match_is(retreever, level):
    query = retreever.route(["ba be bi"])[0]
    ids = [hit.id for hit in retreever.search(["ba be bi"], 3, level)[0]]
    *found, gone = explain_hits(retreever, query, [*ids, "gone"], level)
    assert (gone.path, gone.leaves, len(found)) == ([], [], 3)
    for why in found:
        assert [node.level for node in why.path] == list(range(1, (level or 4) + 1))
        assert all(after.id in (2 * before.id + 1, 2 * before.id + 2) for before, after in pairwise(why.path))
        assert all(after.share <= before.share + 1e-6 for before, after in pairwise(why.path))
        assert why.path[-1].id == why.leaves[0].id and why.path[-1].share == pytest.approx(why.leaves[0].share)
        assert [leaf.share for leaf in why.leaves] == sorted((leaf.share for leaf in why.leaves), reverse=True)
        assert sum(leaf.share for leaf in why.leaves) <= 1 + 1e-6
        assert why.path[0].query == pytest.approx(float(query[why.path[0].id]), abs=1e-6)


def test_no_file_of_the_page_may_load_from_another_origin():
    app = FastAPI()
    mount_page(app)
    client = TestClient(app)
    for path in ("/", "/page/index.html"):
        reply = client.get(path)
        assert reply.status_code == 200 and "default-src 'none'" in reply.headers["content-security-policy"]
        assert reply.headers["x-content-type-options"] == "nosniff"
    assert client.get("/page/../app.py").status_code == 404 and client.get("/page/%2e%2e/app.py").status_code == 404
    assert client.get("/elsewhere").status_code == 404

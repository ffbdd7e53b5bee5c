"""The tree as the page shows it, by the sharp reading: nodes, the flow of a query, the paths of passages."""

import shutil
from itertools import pairwise

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from retreever.bundle.nodes.node_names import rename_nodes
from retreever.bundle.retriever import Retreever
from retreever.bundle.tree_view import explain_hits, make_node_view, make_tree_view, trace_query
from retreever.model.tree import Tree
from retreever.service.http.static_page import mount_page

DEPTH = 4


@pytest.fixture(scope="module")
def retreever(served):
    return Retreever.load(served[1])


def read_sharply(retreever, text, kind):
    return retreever.explanation.read_sharply(retreever.embed([text], kind))[0]


def test_every_node_is_there_with_words_and_size(retreever):
    view = make_tree_view(retreever)
    assert view.depth == 4 and view.passages == view.sampled == 300 and view.sharpness > 1
    assert [node.id for node in view.nodes] == list(range(31))
    assert [node.level for node in view.nodes] == [0] + [1] * 2 + [2] * 4 + [3] * 8 + [4] * 16
    assert view.nodes[0].words == [] and any(node.words for node in view.nodes)
    assert {node.name for node in view.nodes} == {None}


def test_sizes_add_up(retreever):
    sizes = [node.size for node in make_tree_view(retreever).nodes]
    assert sizes[0] == pytest.approx(300, abs=0.01)
    for parent in range(15):
        assert sizes[parent] == pytest.approx(sizes[2 * parent + 1] + sizes[2 * parent + 2], abs=0.02)


def test_a_node_has_neighbours_and_examples(retreever):
    root, middle, leaf = (make_node_view(retreever, node) for node in (0, 5, 30))
    assert (root.parent, root.children, middle.parent, middle.children) == (None, [1, 2], 2, [11, 12])
    assert (leaf.parent, leaf.children) == (14, []) and root.examples == []
    for view in (middle, leaf):
        assert len({example.id for example in view.examples}) == 5
        for example in view.examples:
            found = read_sharply(retreever, example.text, "passage")[view.id]
            assert found == pytest.approx(example.probability, abs=0.03)


@pytest.mark.parametrize("node", [-1, 31, 10**9])
def test_a_node_that_is_not_there_is_a_key_error(retreever, node):
    with pytest.raises(KeyError, match="must be a whole number in"):
        make_node_view(retreever, node)


def test_a_flow_is_the_sharp_distribution_of_the_query(retreever):
    masses = {node.id: node.mass for node in trace_query(retreever, "ba be bi")}
    expected = read_sharply(retreever, "ba be bi", "query")
    for level in range(DEPTH + 1):
        for node in range(2**level - 1, 2 ** (level + 1) - 1):
            assert masses.get(node) == pytest.approx(expected[node], rel=1e-3) or expected[node] < 0.11 / 2**level
    assert masses[0] == 1 and len(masses) > DEPTH
    soft = retreever.route(["ba be bi"])[0]
    assert max(masses.get(1, 0), masses.get(2, 0)) > max(soft[1], soft[2]) + 0.05


@pytest.mark.parametrize("level", [1, 3, None])
def test_a_path_leads_to_where_the_passage_is_and_tells_where_the_query_parts(retreever, level):
    query = retreever.route(["ba be bi"])[0]
    hits = retreever.search(["ba be bi"], 8, level)[0]
    *found, gone = explain_hits(retreever, query, [*(hit.id for hit in hits), "gone"], level)
    assert (gone.path, gone.leaves, gone.parting, len(found)) == ([], [], None, 8)
    chosen = level or DEPTH
    nodes = Tree(DEPTH).level(chosen)
    asked = read_sharply(retreever, "ba be bi", "query")
    theirs = nodes.start + int(asked[nodes].argmax())
    for why, hit in zip(found, hits, strict=True):
        passage = read_sharply(retreever, hit.text, "passage")
        assert [node.level for node in why.path] == list(range(1, chosen + 1))
        assert all(after.id in (2 * before.id + 1, 2 * before.id + 2) for before, after in pairwise(why.path))
        assert why.path[-1].passage == pytest.approx(passage[nodes].max(), abs=0.03)
        assert all(node.query == pytest.approx(asked[node.id], abs=1e-6) for node in why.path)
        shared = [node.id for node in why.path if is_above(node.id, theirs)]
        assert why.parting == (shared[-1] if shared else 0)
    assert {why.parting for why in found} != {0} or chosen == 1


def is_above(node, other):
    while other > node:
        other = (other - 1) // 2
    return node == other


def test_shares_are_parts_of_what_query_and_passage_have_in_common(retreever):
    query = retreever.route(["ba be bi"])[0]
    (why,) = explain_hits(retreever, query, ["p0007"])
    passage = read_sharply(retreever, retreever.documents[7].text, "passage")
    common = np.minimum(read_sharply(retreever, "ba be bi", "query"), passage)
    for node in (*why.path, *why.leaves):
        level = Tree(DEPTH).level((node.id + 1).bit_length() - 1)
        assert node.share == pytest.approx(common[node.id] / common[level].sum(), abs=0.02)
    assert [leaf.share for leaf in why.leaves] == sorted((leaf.share for leaf in why.leaves), reverse=True)
    assert why.leaves[0].share == pytest.approx(common[15:].max() / common[15:].sum(), abs=0.02)


def test_a_name_is_shown_wherever_its_node_is(served, tmp_path):
    retreever = Retreever.load(shutil.copytree(served[1], tmp_path / "live"))
    query = retreever.route(["ba be bi"])[0]
    node = explain_hits(retreever, query, ["p0007"])[0].path[-1].id
    rename_nodes(retreever.folder, retreever.digest, retreever.tree, {node: "Vowels"})
    assert make_tree_view(retreever).nodes[node].name == make_node_view(retreever, node).name == "Vowels"
    (why,) = explain_hits(retreever, query, ["p0007"])
    assert why.path[-1].name == "Vowels" and why.path[0].name is None
    assert all((leaf.name == "Vowels") == (leaf.id == node) for leaf in why.leaves)


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

"""A request handler over a compact index."""

import pytest

from retreever.bundle.retriever import Retreever
from retreever.data.dataset import Passage
from retreever.service.schema import SearchRequest
from retreever.service.version.answers import RequestHandler
from tests.support.bundles import tiny_bundle


@pytest.fixture(scope="module")
def handler(served):
    folder = served[1].parent.parent  # where the encoder is
    return RequestHandler(Retreever.load(tiny_bundle(folder, served[0], "compact", index__compact=True)), "x")


def route_uniformly(handler):
    """A text that reaches all leaves alike, and an encoding that no index of this test keeps."""
    nodes = handler.make_uniform_query()
    return nodes, nodes[:, :0]


def test_a_search_uses_its_only_level(handler):
    for fields in ({}, {"level": 4}, {"budget_ms": 1000}, {"max_bytes": 64}):
        assert handler.choose_level(SearchRequest(query="ba", **fields)) == 4
    (answer,) = handler.search([SearchRequest(query="ba", k=3)], [route_uniformly(handler)])
    assert len(answer.ids) == 3
    assert handler.check_level(2) == 2  # of a vector


@pytest.mark.parametrize(
    ("fields", "rule"),
    [({"level": 2}, r"must lie within \[4, 4\]"), ({"max_bytes": 16}, "the smallest vector takes 32 bytes, got 16")],
)
def test_other_levels_are_refused(handler, fields, rule):
    with pytest.raises(Exception, match=rule):
        handler.choose_level(SearchRequest(query="ba", **fields))


def test_it_does_not_grow(handler):
    with pytest.raises(Exception, match="compact: an index of codes alone cannot grow"):
        handler.add([Passage("new", "ba be", "")], *route_uniformly(handler))

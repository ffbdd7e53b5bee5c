"""A bundle whose index is compact, behind the interface."""

import pytest

from retreever.data.dataset import Passage
from retreever.service.schema import SearchRequest
from retreever.service.version.answers import Answers
from tests.support.bundles import tiny_bundle


@pytest.fixture(scope="module")
def answers(served):
    folder = served[1].parent.parent  # where the encoder is
    return Answers.open(tiny_bundle(folder, served[0], "compact", index__compact=True), "x")


def test_it_is_asked_at_its_only_level(answers):
    for asked in ({}, {"level": 4}, {"budget_ms": 1000}, {"max_bytes": 64}):
        assert answers.level(SearchRequest(query="ba", **asked)) == 4
    (answer,) = answers.search([SearchRequest(query="ba", k=3)], [answers.even()])
    assert len(answer.ids) == 3
    assert answers.checked_level(2) == 2  # of a vector


@pytest.mark.parametrize(
    ("asked", "rule"),
    [({"level": 2}, r"must lie within \[4, 4\]"), ({"max_bytes": 16}, "the smallest vector takes 32 bytes, got 16")],
)
def test_other_levels_are_refused(answers, asked, rule):
    with pytest.raises(Exception, match=rule):
        answers.level(SearchRequest(query="ba", **asked))


def test_it_does_not_grow(answers):
    with pytest.raises(Exception, match="compact: an index of codes alone cannot grow"):
        answers.add([Passage("new", "ba be", "")], answers.even())

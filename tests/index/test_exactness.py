"""Ten thousand random queries of indexes of every kind, between random adds and deletes: not one answer may differ."""

import pytest

from benchmarks.exactness import Tally, made_indexes


@pytest.mark.parametrize("queries", [240, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_answer_differs_from_a_sort_of_all_similarities(queries):
    tally = Tally()
    made_indexes(queries, tally)
    assert tally.queries == queries and tally.answers == 3 * queries
    assert tally.differences == 0, tally.by_index

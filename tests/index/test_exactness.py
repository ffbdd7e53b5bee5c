"""Ten thousand random queries of indexes of every kind, between random adds and deletes: not one answer may differ."""

import pytest

from benchmarks.exactness import Tally, made_indexes


@pytest.mark.slow
def test_no_answer_differs_from_a_sort_of_all_similarities():
    tally = Tally()
    made_indexes(10_000, tally)
    assert tally.queries == 10_000 and tally.answers == 30_000
    assert tally.differences == 0, tally.by_index

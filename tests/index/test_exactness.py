"""Ten thousand random queries of all kinds of index, between random adds and deletes: no answer may differ."""

import pytest

from benchmarks.exactness import Tally, check_synthetic_indexes


@pytest.mark.slow
def test_no_answer_differs_from_a_sort_of_all_similarities():
    tally = Tally()
    check_synthetic_indexes(10_000, tally)
    assert tally.queries == 10_000 and tally.answers == 30_000
    assert tally.differences == 0, tally.by_index

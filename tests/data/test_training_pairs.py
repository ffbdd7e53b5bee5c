import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retreever.data.training_pairs import draw_batch_rows, limit_pairs
from retreever.errors import DataError


@settings(deadline=None)
@given(n=st.integers(1, 40), size=st.integers(1, 50), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 3))
def test_an_epoch_shows_every_pair_at_most_once_and_drops_less_than_a_batch(n: int, size: int, seed: int, epoch: int):
    steps = n // min(n, size)
    batches = [draw_batch_rows(n, size, epoch * steps + step, seed) for step in range(steps)]
    rows = np.concatenate(batches)
    assert {len(batch) for batch in batches} == {min(n, size)}
    assert len(set(rows.tolist())) == len(rows) > n - size
    assert rows.dtype == np.int64 and rows.min() >= 0 and rows.max() < n


def test_a_step_can_be_repeated_in_any_order():
    forward = [draw_batch_rows(100, 7, step, seed=3) for step in range(60)]
    for step in reversed(range(60)):
        assert np.array_equal(draw_batch_rows(100, 7, step, seed=3), forward[step])


def test_epochs_and_seeds_differ():
    assert not np.array_equal(draw_batch_rows(100, 100, 0, seed=3), draw_batch_rows(100, 100, 1, seed=3))
    assert not np.array_equal(draw_batch_rows(100, 100, 0, seed=3), draw_batch_rows(100, 100, 0, seed=4))


def test_a_caller_may_write_into_a_batch():
    draw_batch_rows(10, 5, 0, seed=0)[:] = -1
    assert draw_batch_rows(10, 5, 0, seed=0).min() >= 0


@pytest.mark.parametrize(("n", "size"), [(0, 4), (4, 0)])
def test_no_pair_or_no_size_is_refused(n: int, size: int):
    with pytest.raises(DataError, match="at least one pair"):
        draw_batch_rows(n, size, 0, 0)


def test_limit_draws_by_seed_and_keeps_order():
    pairs = np.arange(200).reshape(100, 2)
    drawn = limit_pairs(pairs, 30, seed=1)
    assert drawn.shape == (30, 2)
    assert (np.diff(drawn[:, 0]) > 0).all()
    assert np.array_equal(drawn, limit_pairs(pairs, 30, seed=1))
    assert not np.array_equal(drawn, limit_pairs(pairs, 30, seed=2))


@pytest.mark.parametrize("most", [None, 4, 5])
def test_limit_keeps_all_where_there_are_no_more(most: int | None):
    pairs = np.arange(8).reshape(4, 2)
    assert np.array_equal(limit_pairs(pairs, most, seed=0), pairs)

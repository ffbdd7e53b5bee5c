import numba
import torch

from retreever.evaluation.latency import limit_to_one_thread, measure_query_latency


def test_every_query_is_asked_and_the_first_ones_twice():
    asked = []
    found = measure_query_latency(asked.append, list(range(10)))
    assert asked == [0, 1, 2, *range(10)]
    assert 0 <= found.median <= found.p95


def test_one_thread_and_back():
    from threadpoolctl import threadpool_info

    numba.get_num_threads()  # its first call starts threads that torch may share
    before = torch.get_num_threads(), numba.get_num_threads()
    with limit_to_one_thread():
        assert torch.get_num_threads() == numba.get_num_threads() == 1
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}
    assert (torch.get_num_threads(), numba.get_num_threads()) == before

"""Which threads go first: those that start before those that answer, and these before those that compute."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from serve.priority import ANSWERS, COMPUTES, give_way


def niceness():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process has one priority")
def test_a_thread_gives_way_alone_and_with_those_it_starts():
    before = niceness()

    def lowered():
        give_way(ANSWERS)
        with ThreadPoolExecutor(1, initializer=give_way, initargs=(COMPUTES - ANSWERS,)) as started:
            return niceness(), started.submit(niceness).result()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lowered).result() == (min(before + ANSWERS, 19), min(before + COMPUTES, 19))
    assert niceness() == before

"""Waiting requests share a batch; too many are refused; one that fails harms no other."""

import asyncio

import pytest

from retreever.service.refusal import RefusalError
from retreever.service.request_batcher import RequestBatcher


def run(play):
    return asyncio.run(asyncio.wait_for(play, 30))


class Slow:
    """Answers a batch when its gate is released; records the batches."""

    def __init__(self):
        self.batches, self.gate = [], asyncio.Semaphore(0)

    async def __call__(self, items):
        self.batches.append(items)
        await self.gate.acquire()
        return [ValueError(item) if item == "bad" else item.upper() for item in items]


def test_the_first_starts_alone_and_the_others_share_a_batch():
    async def play():
        slow = Slow()
        batcher = RequestBatcher(slow, max_batch=3, max_concurrent=1, max_waiting=10)
        asks = [asyncio.create_task(batcher.submit(item, 1)) for item in "abcde"]
        await asyncio.sleep(0.01)
        assert slow.batches == [["a"]] and batcher.waiting == 4
        for _ in range(3):
            slow.gate.release()
        answers = await asyncio.gather(*asks)
        assert [result for result, _ in answers] == list("ABCDE") and slow.batches == [["a"], ["b", "c", "d"], ["e"]]
        assert answers[0][1] < answers[1][1] and batcher.waiting == 0

    run(play())


def test_the_next_batch_starts_before_the_callers_of_the_last_get_results():
    async def play():
        slow = Slow()
        batcher = RequestBatcher(slow, max_batch=1, max_concurrent=1, max_waiting=10)

        async def ask(item):
            await batcher.submit(item, 1)
            return list(slow.batches)

        asks = [asyncio.create_task(ask(item)) for item in "ab"]
        await asyncio.sleep(0.01)
        slow.gate.release()
        assert await asks[0] == [["a"], ["b"]]
        slow.gate.release()
        await asks[1]

    run(play())


def test_texts_are_counted_not_requests():
    async def play():
        slow = Slow()
        batcher = RequestBatcher(slow, max_batch=4, max_concurrent=1, max_waiting=100)
        asks = [asyncio.create_task(batcher.submit(item, n)) for item, n in [("a", 1), ("b", 3), ("c", 2), ("d", 9)]]
        for _ in range(4):
            slow.gate.release()
        await asyncio.gather(*asks)
        assert slow.batches == [["a"], ["b"], ["c"], ["d"]]

    run(play())


def test_only_a_full_batch_starts_beside_a_running_one():
    async def play():
        slow = Slow()
        batcher = RequestBatcher(slow, max_batch=3, max_concurrent=2, max_waiting=100)
        asks = [asyncio.create_task(batcher.submit(item, 1)) for item in "abc"]
        await asyncio.sleep(0.01)
        assert slow.batches == [["a"]]
        asks += [asyncio.create_task(batcher.submit(item, n)) for item, n in [("d", 1), ("big", 64), ("e", 1)]]
        await asyncio.sleep(0.01)
        assert slow.batches == [["a"], ["b", "c", "d"]]  # and no third
        for _ in range(4):
            slow.gate.release()
        await asyncio.gather(*asks)
        assert slow.batches[2:] == [["big"], ["e"]]

    run(play())


def test_too_much_is_refused_but_a_large_request_alone_is_not():
    async def play():
        slow = Slow()
        batcher = RequestBatcher(slow, max_batch=4, max_concurrent=1, max_waiting=5)
        asks = [asyncio.create_task(batcher.submit("a", 1)), asyncio.create_task(batcher.submit("big", 64))]
        await asyncio.sleep(0.01)
        with pytest.raises(RefusalError) as refused:
            await batcher.submit("b", 1)
        assert refused.value.status == 429 and refused.value.retry_after == 1
        slow.gate.release()
        slow.gate.release()
        await asyncio.gather(*asks)

    run(play())


def test_a_failed_and_a_cancelled_request_harm_no_other():
    async def play():
        slow = Slow()
        batcher = RequestBatcher(slow, max_batch=9, max_concurrent=1, max_waiting=99)
        asks = [asyncio.create_task(batcher.submit(item, 1)) for item in ("a", "bad", "gone", "c")]
        await asyncio.sleep(0.01)
        asks[2].cancel()
        slow.gate.release()
        slow.gate.release()
        found = await asyncio.gather(*asks, return_exceptions=True)
        assert found[0][0] == "A" and isinstance(found[1], ValueError) and found[3][0] == "C"
        assert slow.batches == [["a"], ["bad", "c"]] and batcher.waiting == 0

    run(play())


def test_a_batch_that_breaks_is_everybody_s_error_and_the_next_goes_on():
    async def play():
        broken = [True]

        async def answer(items):
            if broken.pop() if broken else False:
                raise OSError("lost")
            return items

        batcher = RequestBatcher(answer, max_batch=9, max_concurrent=1, max_waiting=99)
        with pytest.raises(OSError, match="lost"):
            await batcher.submit("a", 1)
        assert (await batcher.submit("b", 1))[0] == "b"

    run(play())

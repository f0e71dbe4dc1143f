import asyncio
import threading

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from motivnet.inference.results import ImageResult
from motivnet.server.batching import Batcher, ClosedError, FailedError, QueueFullError
from motivnet.server.metrics import Metrics


class Echo:
    """Answers with the images as sources, once it is let; breaks at b"bad"."""

    def __init__(self) -> None:
        self.let, self.began = threading.Event(), threading.Event()
        self.batches: list[list[bytes]] = []
        self.threads: set[str] = set()

    def predict(self, images):
        self.began.set()
        assert self.let.wait(60)
        self.batches.append(list(images))
        self.threads.add(threading.current_thread().name)
        if b"bad" in images:
            raise RuntimeError("broke")
        return [ImageResult(source=image.decode(), status="no_face", model="m", preprocessing="p") for image in images]


def run(go, **settings):
    """Run `go(batcher, echo)` with a batcher that is closed afterwards."""

    async def all_of_it():
        echo = Echo()
        defaults = {"max_queue_images": 100, "batch_images": 4, "batch_wait_s": 0.0}
        batcher = Batcher(echo, Metrics(), **(defaults | settings))
        batcher.start()
        try:
            return await go(batcher, echo)
        finally:
            echo.let.set()
            await batcher.close()

    return asyncio.run(all_of_it())


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


def sources(results) -> list[str]:
    return [result.source for result in results]


def ask(batcher, *images: bytes) -> asyncio.Task:
    return asyncio.create_task(batcher.predict(images))


def test_what_came_while_the_model_was_busy_is_one_batch():
    async def go(batcher, echo):
        first = ask(batcher, b"1")
        await until(echo.began.is_set)
        rest = [ask(batcher, b"2", b"3"), ask(batcher, b"4"), ask(batcher, b"5", b"6")]
        await asyncio.sleep(0)
        echo.let.set()
        assert sources(await first) == ["1"]
        assert [sources(await task) for task in rest] == [["2", "3"], ["4"], ["5", "6"]]
        # A request is not divided.
        assert echo.batches == [[b"1"], [b"2", b"3", b"4"], [b"5", b"6"]]
        assert len(echo.threads) == 1

    run(go)


def test_a_request_larger_than_a_batch_or_the_queue_goes_alone():
    async def go(batcher, echo):
        echo.let.set()
        many = [str(n).encode() for n in range(9)]
        assert len(await batcher.predict(many)) == 9
        assert echo.batches == [many]

    run(go, max_queue_images=3)


def test_others_on_their_way_are_waited_for():
    async def go(batcher, echo):
        echo.let.set()
        with batcher.coming():
            first = ask(batcher, b"1")
            await asyncio.sleep(0.05)
            assert not echo.batches
        await batcher.predict([b"2"])
        await first
        assert echo.batches == [[b"1", b"2"]]

    run(go, batch_wait_s=60.0)


def test_nobody_waits_when_none_is_on_its_way():
    async def go(batcher, echo):
        echo.let.set()
        async with asyncio.timeout(30):
            await batcher.predict([b"1"])

    run(go, batch_wait_s=600.0)


def test_they_are_not_waited_for_for_ever():
    async def go(batcher, echo):
        echo.let.set()
        with batcher.coming():
            assert sources(await batcher.predict([b"1"])) == ["1"]

    run(go, batch_wait_s=0.01)


def test_a_full_queue():
    async def go(batcher, echo):
        first = ask(batcher, b"1")
        await until(echo.began.is_set)
        second = ask(batcher, b"2", b"3")
        await asyncio.sleep(0)
        assert not batcher.full
        with pytest.raises(QueueFullError):
            await batcher.predict([b"4", b"5"])
        third = ask(batcher, b"4")
        await asyncio.sleep(0)
        assert batcher.full
        with pytest.raises(QueueFullError):
            await batcher.call(lambda: 1)
        echo.let.set()
        await asyncio.gather(first, second, third)
        assert not batcher.full

    run(go, max_queue_images=3)


def test_whoever_leaves_is_not_predicted():
    async def go(batcher, echo):
        first = ask(batcher, b"1")
        await until(echo.began.is_set)
        gone, stays = ask(batcher, b"2"), ask(batcher, b"3")
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        echo.let.set()
        await asyncio.gather(first, stays)
        assert echo.batches == [[b"1"], [b"3"]]

    run(go)


def test_only_the_guilty_request_fails(caplog):
    async def go(batcher, echo):
        first = ask(batcher, b"1")
        await until(echo.began.is_set)
        tasks = [ask(batcher, b"2"), ask(batcher, b"bad"), ask(batcher, b"3")]
        await asyncio.sleep(0)
        echo.let.set()
        await first
        two, bad, three = await asyncio.gather(*tasks, return_exceptions=True)
        assert (sources(two), sources(three)) == (["2"], ["3"])
        assert isinstance(bad, FailedError)

    run(go)
    assert "broke" in caplog.text


def test_calls_run_in_the_models_thread_between_batches(caplog):
    async def go(batcher, echo):
        first = ask(batcher, b"1")
        await until(echo.began.is_set)
        called = asyncio.create_task(batcher.call(lambda: threading.current_thread().name))
        await asyncio.sleep(0)
        echo.let.set()
        await first
        assert {await called} == echo.threads
        with pytest.raises(FailedError):
            await batcher.call(lambda: np.zeros(1)[2])

    run(go)
    assert "IndexError" in caplog.text


def test_closing_finishes_what_was_accepted():
    async def go(batcher, echo):
        first = ask(batcher, b"1")
        await until(echo.began.is_set)
        second = ask(batcher, b"2")
        called = asyncio.create_task(batcher.call(lambda: 7))
        await asyncio.sleep(0)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        assert not batcher.ready
        with pytest.raises(ClosedError):
            await batcher.predict([b"3"])
        echo.let.set()
        await closing
        assert (sources(await first), sources(await second), await called) == (["1"], ["2"], 7)

    run(go)

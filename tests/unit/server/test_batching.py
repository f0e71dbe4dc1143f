import asyncio
import threading
from concurrent.futures import Future

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from motivnet.images import NamedImage
from motivnet.inference.results import ImageResult
from motivnet.server.batching import Batcher
from motivnet.server.limits import RefusedError
from motivnet.server.settings import ServerSettings
from motivnet.server.telemetry import Metrics


class Echo:
    """Answers with the images as sources, once it is let; breaks at one named bad, and reads none named unread."""

    workers = 1

    def __init__(self) -> None:
        self.let, self.began = threading.Event(), threading.Event()
        self.batches: list[list[bytes]] = []
        self.threads: set[str] = set()
        self.submitted: list[Future] = []

    def submit(self, image):
        future = Future()
        if image.name != "unread":
            future.set_result(image)
        if image.name == "broken":
            future = Future()
            future.set_exception(RuntimeError("no detector"))
        self.submitted.append(future)
        return future

    def finish(self, images):
        self.began.set()
        assert self.let.wait(60)
        names = [image.name for image in images]
        self.batches.append(names)
        self.threads.add(threading.current_thread().name)
        if "bad" in names:
            raise RuntimeError("broke")
        return [ImageResult(source=name, status="no_face", model="m", preprocessing="p") for name in names]


def run(go, **settings):
    """Run `go(batcher, echo)` with a batcher that is closed afterwards."""

    async def all_of_it():
        echo = Echo()
        defaults = {"max_queue_images": 100, "batch_images": 4, "batch_wait_ms": 0.0}
        batcher = Batcher(echo, ServerSettings(**(defaults | settings)), Metrics())
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


def named(*names: str) -> list[NamedImage]:
    return [NamedImage(name, b"") for name in names]


def ask(batcher, *names: str) -> asyncio.Task:
    return asyncio.create_task(batcher.predict(named(*names)))


def test_what_came_while_the_model_was_busy_is_one_batch():
    async def go(batcher, echo):
        first = ask(batcher, "1")
        await until(echo.began.is_set)
        rest = [ask(batcher, "2", "3"), ask(batcher, "4"), ask(batcher, "5", "6")]
        await until(lambda: batcher._num_ready() == 5)
        echo.let.set()
        assert sources(await first) == ["1"]
        assert [sources(await task) for task in rest] == [["2", "3"], ["4"], ["5", "6"]]
        # A request is not divided.
        assert list(map(sorted, echo.batches)) == [["1"], ["2", "3", "4"], ["5", "6"]]
        assert len(echo.threads) == 1

    run(go)


def test_a_request_larger_than_a_batch_or_the_queue_goes_alone():
    async def go(batcher, echo):
        echo.let.set()
        many = [str(n) for n in range(9)]
        assert len(await batcher.predict(named(*many))) == 9
        assert echo.batches == [many]

    run(go, max_queue_images=3)


def test_others_on_their_way_are_waited_for():
    async def go(batcher, echo):
        echo.let.set()
        with batcher.arriving():
            first = ask(batcher, "1")
            await asyncio.sleep(0.05)
            assert not echo.batches
        await batcher.predict(named("2"))
        await first
        assert echo.batches == [["1", "2"]]

    run(go, batch_wait_ms=60000)


def test_nobody_waits_when_none_is_on_its_way():
    async def go(batcher, echo):
        echo.let.set()
        async with asyncio.timeout(30):
            await batcher.predict(named("1"))

    run(go, batch_wait_ms=600000)


def test_they_are_not_waited_for_for_ever():
    async def go(batcher, echo):
        echo.let.set()
        with batcher.arriving():
            assert sources(await batcher.predict(named("1"))) == ["1"]

    run(go, batch_wait_ms=10)


def test_a_full_queue():
    async def go(batcher, echo):
        first = ask(batcher, "1")
        await until(echo.began.is_set)
        second = ask(batcher, "2", "3")
        await asyncio.sleep(0)
        batcher.check_room(1)
        with pytest.raises(RefusedError, match="too many images"):
            await batcher.predict(named("4", "5"))
        third = ask(batcher, "4")
        await asyncio.sleep(0)
        with pytest.raises(RefusedError, match="too many images"):
            batcher.check_room(2)
        # Requests take turns: of the one with two images, one comes before a single one.
        batcher.check_room(1)
        echo.let.set()
        await asyncio.gather(first, second, third)
        batcher.check_room(3)

    run(go, max_queue_images=3)


def test_a_long_wait_is_refused_but_not_of_the_few_that_keep_the_threads_busy():
    async def go(batcher, echo):
        first = ask(batcher, "1", "2")
        await until(echo.began.is_set)
        # As if each image of an earlier batch had taken a second.
        batcher._image_s = 1.0
        assert sum(batcher._held.values()) == 2
        others = [ask(batcher, "3"), ask(batcher, "4")]
        await until(lambda: batcher._num_ready() == 2)
        with pytest.raises(RefusedError, match="too many images") as refused:
            await batcher.predict(named("5"))
        assert refused.value.status == 429
        batcher._image_s = 0.1
        others.append(ask(batcher, "5"))
        echo.let.set()
        await asyncio.gather(first, *others)
        assert not batcher._held

    run(go, max_wait_ms=500)


def test_the_time_of_an_image_follows_the_batches():
    async def go(batcher, echo):
        echo.let.set()
        await batcher.predict(named("1"))
        first_s = batcher._image_s
        assert first_s > 0
        batcher._image_s = first_s + 1000
        await batcher.predict(named("2"))
        assert first_s < batcher._image_s < first_s + 1000

    run(go)


def test_images_are_detected_while_the_model_is_busy_and_others_overtake_slow_ones():
    async def go(batcher, echo):
        first = ask(batcher, "1")
        await until(echo.began.is_set)
        slow, quick = ask(batcher, "unread"), ask(batcher, "2")
        await until(lambda: len(echo.submitted) == 3)
        echo.let.set()
        await asyncio.gather(first, quick)
        assert echo.batches == [["1"], ["2"]]
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        echo.submitted[1].set_result(NamedImage("unread", b""))
        await closing
        assert sources(await slow) == ["unread"]

    run(go)


def test_a_request_that_breaks_the_detector_fails_alone(caplog):
    async def go(batcher, echo):
        echo.let.set()
        broken, fine = await asyncio.gather(ask(batcher, "broken", "unread"), ask(batcher, "1"), return_exceptions=True)
        assert (broken.status, sources(fine)) == (500, ["1"])
        await until(lambda: all(future.done() for future in echo.submitted))
        assert not batcher._queued
        assert not batcher._held

    run(go)
    assert "no detector" in caplog.text


def test_whoever_leaves_is_not_predicted():
    async def go(batcher, echo):
        first = ask(batcher, "1")
        await until(echo.began.is_set)
        gone, stays = ask(batcher, "2"), ask(batcher, "3")
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        echo.let.set()
        await asyncio.gather(first, stays)
        assert echo.batches == [["1"], ["3"]]

    run(go)


def test_only_the_guilty_request_fails(caplog):
    async def go(batcher, echo):
        first = ask(batcher, "1")
        await until(echo.began.is_set)
        tasks = [ask(batcher, "2"), ask(batcher, "bad"), ask(batcher, "3")]
        await until(lambda: batcher._num_ready() == 3)
        echo.let.set()
        await first
        two, bad, three = await asyncio.gather(*tasks, return_exceptions=True)
        assert (sources(two), sources(three)) == (["2"], ["3"])
        assert (bad.status, bad.reason) == (500, "model")

    run(go)
    assert "broke" in caplog.text


def test_calls_run_in_the_models_thread_between_batches(caplog):
    async def go(batcher, echo):
        first = ask(batcher, "1")
        await until(echo.began.is_set)
        called = asyncio.create_task(batcher.call(lambda: threading.current_thread().name))
        await asyncio.sleep(0)
        echo.let.set()
        await first
        assert {await called} == echo.threads
        with pytest.raises(RefusedError, match="the model failed"):
            await batcher.call(lambda: np.zeros(1)[2])

    run(go)
    assert "IndexError" in caplog.text


def test_closing_finishes_what_was_accepted():
    async def go(batcher, echo):
        first = ask(batcher, "1")
        await until(echo.began.is_set)
        second = ask(batcher, "2")
        called = asyncio.create_task(batcher.call(lambda: 7))
        await asyncio.sleep(0)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(RefusedError, match="shutting down"):
            await batcher.predict(named("3"))
        echo.let.set()
        await closing
        assert (sources(await first), sources(await second), await called) == (["1"], ["2"], 7)

    run(go)

"""Micro-batching: images of requests that come at about the same time go through the model together.

A request's images are one `_Job`, accepted whole or not at all. A task on the event loop takes jobs from the queue when
there are images enough for a batch, when no other request is on its way, or when the oldest has waited long enough;
while the model is busy, the next batch gathers by itself. One thread owns the models. Everything else here runs on the
event loop and needs no lock.
"""

import asyncio
import collections
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from motivnet.inference.results import ImageResult
from motivnet.server.metrics import Metrics

T = TypeVar("T")

_LOG = logging.getLogger("motivnet.server")


class Predicts(Protocol):
    """What is asked of a predictor: one result per image, in order, also for one that cannot be read."""

    def predict(self, inputs: Sequence[bytes], /) -> list[ImageResult]: ...  # noqa: D102


class QueueFullError(Exception):
    """There is no room for a request's images now."""


class ClosedError(Exception):
    """The server is shutting down and takes no more work."""


class FailedError(Exception):
    """The predictor itself failed on a request's images; the log has the traceback."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Job:
    """The images of a request, and where their results are awaited."""

    images: Sequence[bytes]
    results: asyncio.Future[list[ImageResult]]
    since_s: float


class Batcher:
    """Predict images of several requests at once. Made, used and closed on one event loop."""

    def __init__(
        self,
        predictor: Predicts,
        metrics: Metrics,
        *,
        max_queue_images: int,
        batch_images: int,
        batch_wait_s: float,
    ) -> None:
        """Prepare; `start` begins.

        Args:
            predictor: called in one thread only.
            metrics: told of batches and of the queue.
            max_queue_images: most images that wait; a request with more is taken if no other waits.
            batch_images: images that are enough for a batch. A request with more is not divided.
            batch_wait_s: how long an image waits at most, in seconds, for those of other requests that are on their
                way, while the model is idle.
        """
        self._predictor = predictor
        self._metrics = metrics
        self._max_queue_images = max_queue_images
        self._batch_images = batch_images
        self._batch_wait_s = batch_wait_s
        self._jobs: collections.deque[_Job] = collections.deque()
        self._queued = 0
        self._coming = 0
        self._calls: set[asyncio.Future] = set()
        self._closing = False
        self._changed = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="motivnet-model")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to take jobs from the queue."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def ready(self) -> bool:
        """Whether work is accepted."""
        return self._task is not None and not self._task.done() and not self._closing

    @property
    def full(self) -> bool:
        """Whether not even one more image would be accepted."""
        return self._queued >= self._max_queue_images

    @contextlib.contextmanager
    def coming(self) -> Iterator[None]:
        """Announce a request whose images are still to arrive: others wait for it, within limits."""
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1
            self._changed.set()

    async def predict(self, images: Sequence[bytes]) -> list[ImageResult]:
        """Wait for a place in a batch, and for its results.

        When the caller is cancelled while its images wait, they are not predicted.

        Args:
            images: contents of files, at least one.

        Returns:
            One result per image, in order.

        Raises:
            QueueFullError: if as many images wait already that these would be too many.
            ClosedError: if the server is shutting down.
            FailedError: if the predictor failed on these images.
        """
        self._check_room(len(images))
        job = _Job(images, asyncio.get_running_loop().create_future(), time.monotonic())
        self._jobs.append(job)
        self._count(len(images))
        self._changed.set()
        return await job.results

    async def call(self, function: Callable[[], T]) -> T:
        """Let the thread do something else between two batches, such as run another model.

        It counts as one image that waits.

        Raises:
            QueueFullError: if too many images wait already.
            ClosedError: if the server is shutting down.
            FailedError: if the function raised; the log has the traceback.
        """
        self._check_room(1)
        self._count(1)
        called = asyncio.get_running_loop().run_in_executor(self._thread, function)
        self._calls.add(called)
        called.add_done_callback(self._end_call)
        # Goes on when the caller is cancelled: a thread cannot be stopped.
        await asyncio.wait([called])
        if error := called.exception():
            _LOG.error("the model failed", exc_info=error)
            raise FailedError
        return called.result()

    def _end_call(self, called: asyncio.Future) -> None:
        self._calls.discard(called)
        self._count(-1)

    async def close(self) -> None:
        """Take no more work, finish what was accepted, end the thread."""
        self._closing = True
        self._changed.set()
        if self._task is not None:
            await self._task
        if self._calls:
            await asyncio.wait(self._calls)
        self._thread.shutdown()

    def _check_room(self, num_images: int) -> None:
        if not self.ready:
            raise ClosedError
        if self._queued and self._queued + num_images > self._max_queue_images:
            raise QueueFullError

    async def _run(self) -> None:
        while True:
            while not self._jobs:
                if self._closing:
                    return
                await self._change()
            await self._gather(self._jobs[0].since_s + self._batch_wait_s)
            if jobs := self._take():
                await self._answer(jobs)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _gather(self, until_s: float) -> None:
        """Wait until a batch is full, none is on its way, it is that time of the monotonic clock, or the end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until_s - time.monotonic())):
                while self._coming and self._queued < self._batch_images and not self._closing:
                    await self._change()

    def _take(self) -> list[_Job]:
        """Take the oldest jobs that fit a batch, at least one; those that nobody awaits any more are dropped."""
        taken: list[_Job] = []
        num_images = 0
        while self._jobs and (not taken or num_images + len(self._jobs[0].images) <= self._batch_images):
            job = self._jobs.popleft()
            self._count(-len(job.images))
            if not job.results.done():
                taken.append(job)
                num_images += len(job.images)
                self._metrics.queue_wait.observe(time.monotonic() - job.since_s)
        return taken

    async def _answer(self, jobs: list[_Job]) -> None:
        results, error = await self._call([image for job in jobs for image in job.images])
        if error is None:
            rest = iter(results)
            for job in jobs:
                own = [next(rest) for _ in job.images]
                if not job.results.done():
                    job.results.set_result(own)
        elif len(jobs) > 1:
            # One request must not fail another: each by itself.
            for job in jobs:
                await self._answer([job])
        else:
            _LOG.error("the predictor failed", exc_info=error)
            if not jobs[0].results.done():
                jobs[0].results.set_exception(FailedError())

    async def _call(self, images: list[bytes]) -> tuple[list[ImageResult], BaseException | None]:
        self._metrics.batch_images.observe(len(images))
        with self._metrics.batch_seconds.time():
            call = asyncio.get_running_loop().run_in_executor(self._thread, self._predictor.predict, images)
            await asyncio.wait([call])
        error = call.exception()
        return ([], error) if error else (call.result(), None)

    def _count(self, change: int) -> None:
        self._queued += change
        self._metrics.queue_images.set(self._queued)

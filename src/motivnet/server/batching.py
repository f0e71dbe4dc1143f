"""Micro-batching: images of requests that arrive at about the same time go through the model together.

Own code, as a request must be accepted or refused before it is read, and is never divided. The predictor's threads
decode a request's images and detect their faces, also while the model is busy; then the images are one `_Job`. A task
on the event loop takes jobs from the queue when there are enough images for a batch, when no other request is on its
way, or when the oldest job has waited long enough. One thread runs the models. Everything else here runs on the event
loop and needs no lock.
"""

import asyncio
import collections
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from motivnet.images import NamedImage
from motivnet.inference.predictor import Answer, Detected, Predictor
from motivnet.inference.results import ImageResult
from motivnet.server.limits import RefusedError
from motivnet.server.settings import ServerSettings
from motivnet.server.telemetry import Metrics

T = TypeVar("T")

_LOG = logging.getLogger("motivnet.server")
# Weight of the newest batch in the moving average of the time per image.
NEWEST = 0.2


@dataclasses.dataclass(frozen=True, slots=True)
class _Job:
    """The images of a request with their faces, and the future of their results."""

    images: Sequence[Detected]
    results: asyncio.Future[list[ImageResult]]
    since_s: float
    key: object


class Batcher:
    """Predict images of several requests at once. Created, used and closed on one event loop."""

    def __init__(self, predictor: Predictor, settings: ServerSettings, metrics: Metrics) -> None:
        """Prepare; `start` begins.

        Args:
            predictor: its model is called in one thread only.
            settings: of the queue and the batches.
            metrics: of the queue and the batches.
        """
        self._predictor, self._settings, self._metrics = predictor, settings, metrics
        self._jobs: collections.deque[_Job] = collections.deque()
        # By request: images that wait for the model or a thread, and those accepted and not answered.
        self._queued: dict[object, int] = {}
        self._held: dict[object, int] = {}
        self._arriving = 0
        self._done_s, self._image_s = 0.0, 0.0
        self._closing = False
        self._changed = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="motivnet-model")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to take jobs from the queue."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def check_open(self) -> None:
        """Check that work is accepted; RefusedError 503 if the server is starting or shutting down."""
        if self._task is None or self._task.done() or self._closing:
            raise RefusedError(503, "not_ready", "the server is starting or shutting down")

    def check_room(self, num_images: int) -> None:
        """Check that this many images would be accepted; RefusedError 429 if too many are waiting, or 503.

        A request with more images than the queue may hold is accepted if no other image is waiting. Requests take
        turns: of each other one, only as many images count.
        """
        self.check_open()
        queued = _before(num_images, self._queued)
        wait_s = _before(num_images, self._held) * self._image_s
        # Fewer would leave threads idle.
        is_long = queued >= 2 * self._predictor.workers and wait_s > self._settings.max_wait_ms / 1000
        if queued and (is_long or queued + num_images > self._settings.max_queue_images):
            raise RefusedError(429, "queue_full", "too many images are waiting for the model; retry later")

    @contextlib.contextmanager
    def arriving(self) -> Iterator[None]:
        """Announce a request whose images are being read: an idle model waits for it, within limits."""
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1
            self._changed.set()

    async def predict(self, images: Sequence[NamedImage]) -> list[ImageResult]:
        """Wait for a place in a batch, and for its results.

        If the caller is cancelled while its images are waiting, they are not predicted.

        Args:
            images: at least one.

        Returns:
            One result per image, in order.

        Raises:
            RefusedError: 429 if too many images are waiting, 503 at shutdown, 500 if the predictor failed.
        """
        self.check_room(len(images))
        began_s = time.monotonic()
        key = object()
        self._held[key] = len(images)
        self._count(key, len(images))
        try:
            with self.arriving():
                detected = await self._detect(images, key)
            job = _Job(detected, asyncio.get_running_loop().create_future(), began_s, key)
            self._jobs.append(job)
            return await job.results
        finally:
            del self._held[key]

    async def _detect(self, images: Sequence[NamedImage], key: object) -> list[Detected]:
        # Not all at once: a request of many images would keep the threads from those of others.
        places = asyncio.Semaphore(self._predictor.workers)

        async def detect(image: NamedImage) -> Detected:
            async with places:
                return await asyncio.wrap_future(self._predictor.submit(image))

        found = [asyncio.ensure_future(detect(image)) for image in images]
        try:
            return await asyncio.gather(*found)
        except BaseException as error:
            for future in found:
                future.cancel()
            self._count(key, 0)
            if isinstance(error, Exception):
                raise _failure(error) from None
            raise

    async def call(self, function: Callable[[], T]) -> T:
        """Run another function in the model's thread between two batches. It counts as one waiting image.

        Raises:
            RefusedError: as `predict`.
        """
        self.check_room(1)
        key = object()
        self._count(key, 1)
        called = asyncio.get_running_loop().run_in_executor(self._thread, function)
        called.add_done_callback(lambda _: self._count(key, 0))
        # Goes on when the caller is cancelled: a thread cannot be stopped.
        await asyncio.wait([called])
        if error := called.exception():
            raise _failure(error)
        return called.result()

    def classify(self, faces_HWC_u8: list[np.ndarray]) -> Iterator[Answer]:
        """Classify faces as the predictor does, for any thread, in the model's thread between two batches."""
        return self._thread.submit(self._predictor.classify, faces_HWC_u8).result()

    async def close(self) -> None:
        """Accept no more work, finish what was accepted, and end the thread."""
        self._closing = True
        self._changed.set()
        if self._task is not None:
            await self._task
        await asyncio.to_thread(self._thread.shutdown)

    async def _run(self) -> None:
        while True:
            while not self._jobs:
                if self._closing and not self._queued:
                    return
                await self._change()
            await self._collect(self._jobs[0].since_s + self._settings.batch_wait_ms / 1000)
            if jobs := self._take():
                await self._answer(jobs)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _collect(self, until_s: float) -> None:
        """Wait until a batch is full, no request is on its way, the monotonic clock reads `until_s`, or the end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until_s - time.monotonic())):
                while self._arriving and self._num_ready() < self._settings.batch_images and not self._closing:
                    await self._change()

    def _num_ready(self) -> int:
        return sum(len(job.images) for job in self._jobs)

    def _take(self) -> list[_Job]:
        """Take the oldest jobs that fit into a batch, at least one; those that nobody awaits any more are dropped."""
        taken: list[_Job] = []
        num_images = 0
        while self._jobs and (not taken or num_images + len(self._jobs[0].images) <= self._settings.batch_images):
            job = self._jobs.popleft()
            self._count(job.key, 0)
            if not job.results.done():
                taken.append(job)
                num_images += len(job.images)
                self._metrics.queue_wait.observe(time.monotonic() - job.since_s)
        return taken

    async def _answer(self, jobs: list[_Job]) -> None:
        images = [image for job in jobs for image in job.images]
        self._metrics.batch_images.observe(len(images))
        with self._metrics.batch_seconds.time():
            call = asyncio.get_running_loop().run_in_executor(
                self._thread, lambda: list(self._predictor.finish(images))
            )
            await asyncio.wait([call])
        now_s = time.monotonic()
        image_s = (now_s - max(self._done_s, jobs[0].since_s)) / len(images)
        self._image_s += (image_s - self._image_s) * (NEWEST if self._done_s else 1)
        self._done_s = now_s
        error = call.exception()
        if error and len(jobs) > 1:
            # One request must not fail another.
            for job in jobs:
                await self._answer([job])
            return
        results = iter(() if error else call.result())
        for job in jobs:
            own = _failure(error) if error else [next(results) for _ in job.images]
            if not job.results.done():
                job.results.set_exception(own) if isinstance(own, RefusedError) else job.results.set_result(own)

    def _count(self, key: object, waiting: int) -> None:
        """Set how many images of a request wait."""
        self._queued.pop(key, None)
        if waiting:
            self._queued[key] = waiting
        self._changed.set()
        self._metrics.queue_images.set(sum(self._queued.values()))


def _before(num_images: int, others: dict[object, int]) -> int:
    """Return how many images of others come before the last of this many, if requests take turns."""
    return sum(min(number, num_images) for number in others.values())


def _failure(error: BaseException) -> RefusedError:
    """Log an error of the model, and return the answer to the request."""
    _LOG.error("the model failed", exc_info=error)
    return RefusedError(500, "model", "the model failed on these images; see the server's log")

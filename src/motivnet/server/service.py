"""What the routes share: who may ask, what is read, who predicts, how a refusal is answered."""

import asyncio
import contextlib
import dataclasses
import functools
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from motivnet.errors import ImageError, MotivNetError
from motivnet.images import decode_image
from motivnet.inference.results import ImageResult
from motivnet.remote import FetchLimits, fetch
from motivnet.server.batching import Batcher, ClosedError, FailedError, QueueFullError
from motivnet.server.limits import Gate, RefusedError, Upload, busy, check_token, read_multipart, read_urls

if TYPE_CHECKING:
    from motivnet.inference.predictor import Predictor
    from motivnet.server.attention import Attention
    from motivnet.server.metrics import Metrics
    from motivnet.server.settings import ServerSettings

T = TypeVar("T")

_LOG = logging.getLogger("motivnet.server")
# Fetches at once, of all requests together: threads that mostly wait.
FETCHES = 16
_QUEUE_FULL = "too many images wait for the model; come again"
Read = Callable[[Request, "ServerSettings"], Awaitable[list[Upload]]]


class Service:
    """Answers requests, between start and end of its lifespan."""

    def __init__(
        self, predictor: "Predictor", settings: "ServerSettings", metrics: "Metrics", attention: "Attention | None"
    ) -> None:
        self.predictor = predictor
        self.settings = settings
        self.metrics = metrics
        self.attention = attention
        self._gate = Gate(settings, metrics)
        self._batcher: Batcher | None = None
        # A decoded photograph is large: one at a time.
        self._explaining = asyncio.Lock()
        self._fetches = ThreadPoolExecutor(FETCHES, thread_name_prefix="motivnet-fetch")

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncGenerator[None, None]:
        """Take work from here to there."""
        settings = self.settings
        self._batcher = Batcher(
            self.predictor,
            self.metrics,
            max_queue_images=settings.max_queue_images,
            batch_images=settings.batch_images,
            batch_wait_s=settings.batch_wait_ms / 1000,
        )
        self._batcher.start()
        try:
            yield
        finally:
            await self._batcher.close()
            # Those that nobody awaits any more end at their own time limit.
            self._fetches.shutdown(wait=False, cancel_futures=True)

    def ready(self) -> Batcher:
        """Give the batcher, if it takes work.

        Raises:
            RefusedError: 503.
        """
        if self._batcher is None or not self._batcher.ready:
            raise RefusedError(503, "not_ready", "the server is starting or shutting down")
        return self._batcher

    async def predict(self, request: Request, read: Read) -> Response:
        """Answer with the results of the images that `read` finds in the request."""
        batcher = self._begin(request)
        with self._gate.admit(request):
            with batcher.coming():
                uploads = await read(request, self.settings)
            async with _while_there(request):
                results = await self._results(uploads)
        return self._answer(request, results, [result.to_dict() for result in results])

    async def predict_urls(self, request: Request) -> Response:
        """Answer with the results of the images that the request gives addresses of."""
        check_token(request, self.settings)
        if not self.settings.allow_urls:
            detail = "this server fetches no images; --allow-urls lets it"
            raise RefusedError(403, "urls", detail)
        self._begin(request)
        with self._gate.admit(request):
            urls = await read_urls(request, self.settings)
            async with _while_there(request):
                results = await self._results(await asyncio.gather(*map(self._fetch, urls)))
        return self._answer(request, results, [result.to_dict() for result in results])

    async def explain(self, request: Request) -> Response:
        """Answer with the result of one image, and where the model looked in its faces."""
        check_token(request, self.settings)
        attention = self.attention
        if attention is None:
            detail = "where this model looks cannot be shown: that needs ML-Decoder, its torch weights, and torch"
            raise RefusedError(501, "no_attention", detail)
        batcher = self._begin(request)
        with self._gate.admit(request):
            with batcher.coming():
                (upload,) = await read_multipart(request, dataclasses.replace(self.settings, max_images=1))
            async with _while_there(request):
                (result,) = await self._results([upload])
                row = result.to_dict()
                if result.faces:
                    async with self._deadline(), self._explaining:
                        await self._load(attention)
                        limits = self.settings.image_limits
                        image = await asyncio.to_thread(functools.partial(decode_image, upload.data, limits=limits))
                        for face, plain in zip(result.faces, row["faces"], strict=True):
                            # One by one, so that batches of others come in between.
                            of_face = functools.partial(attention.of, image, face)
                            plain["attention"] = await self._in_turn(batcher.call(of_face))
        return self._answer(request, [result], [row])

    async def refuse(self, request: Request, error: Exception) -> Response:
        """Answer a refused request."""
        assert isinstance(error, RefusedError)
        self.metrics.errors.labels(error.reason).inc()
        return JSONResponse({"detail": error.detail}, error.status, error.headers)

    def _begin(self, request: Request) -> Batcher:
        """Turn away what could not be predicted now, before anything of its body is read."""
        check_token(request, self.settings)
        batcher = self.ready()
        if batcher.full:
            raise busy(self.settings, "queue_full", _QUEUE_FULL)
        return batcher

    def _answer(self, request: Request, results: list[ImageResult], rows: list[dict[str, Any]]) -> Response:
        for result in results:
            self.metrics.count(result)
        request.state.notes.update(images=len(results), faces=sum(len(result.faces) for result in results))
        return JSONResponse({"results": rows})

    async def _results(self, uploads: list[Upload]) -> list[ImageResult]:
        """Predict what can be; the rest is unreadable."""
        images = [upload.data for upload in uploads if upload.error is None]
        predicted = iter(await self._predicted(images) if images else [])
        return [
            dataclasses.replace(next(predicted), source=upload.name)
            if upload.error is None
            else ImageResult(
                source=upload.name,
                status="unreadable",
                error=upload.error,
                model=self.predictor.config.name,
                preprocessing=self.predictor.config.preprocessing.fingerprint,
            )
            for upload in uploads
        ]

    async def _predicted(self, images: list[bytes]) -> list[ImageResult]:
        async with self._deadline():
            return await self._in_turn(self.ready().predict(images))

    @contextlib.asynccontextmanager
    async def _deadline(self) -> AsyncGenerator[None, None]:
        try:
            async with asyncio.timeout(self.settings.predict_timeout_s):
                yield
        except TimeoutError:
            detail = f"the prediction took longer than {self.settings.predict_timeout_s:g} s"
            raise RefusedError(504, "slow_model", detail) from None

    async def _in_turn(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except QueueFullError:
            raise busy(self.settings, "queue_full", _QUEUE_FULL) from None
        except ClosedError:
            raise RefusedError(503, "not_ready", "the server is shutting down") from None
        except FailedError:
            raise RefusedError(500, "model", "the model failed on these images; the server's log says why") from None

    async def _load(self, attention: "Attention") -> None:
        try:
            await asyncio.to_thread(attention.load)
        except (MotivNetError, ModuleNotFoundError) as error:
            _LOG.error("attention cannot be shown: %s", error)
            detail = (
                "where this model looks cannot be shown: its torch weights cannot be used; the server's log says why"
            )
            raise RefusedError(501, "no_attention", detail) from None

    async def _fetch(self, url: str) -> Upload:
        settings = self.settings
        limits = FetchLimits(max_bytes=settings.max_image_bytes, timeout_s=settings.fetch_timeout_s, public_only=True)
        try:
            call = asyncio.get_running_loop().run_in_executor(self._fetches, fetch, url, limits)
            return Upload(url, await call)
        except ImageError as error:
            return Upload(url, b"", str(error))


@contextlib.asynccontextmanager
async def _while_there(request: Request) -> AsyncGenerator[None, None]:
    """Give up what is done inside when the client leaves: under load, those who do ask again, and wait anew.

    The body must have been read to its end.

    Raises:
        RefusedError: 400, which nobody reads, but log and metrics have it.
    """
    task = asyncio.current_task()
    assert task is not None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not left:
            raise
        task.uncancel()
        raise RefusedError(400, "client_left", "the client left before the answer") from None
    finally:
        watcher.cancel()

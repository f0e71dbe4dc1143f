"""The endpoints: who may ask, what is read, what is predicted, how a refusal is answered."""

import asyncio
import contextlib
import dataclasses
import functools
import logging
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from motivnet.errors import ImageError, MotivNetError
from motivnet.images import NamedImage, decode_image
from motivnet.inference.predictor import Predictor
from motivnet.inference.results import ImageResult
from motivnet.input_limits import FetchLimits
from motivnet.remote import fetch, host_of, without_password
from motivnet.server import schemas
from motivnet.server.attention import Attention
from motivnet.server.batching import Batcher
from motivnet.server.decoding import Decoders
from motivnet.server.limits import Gate, Hold, RefusedError, check_token, read_base64, read_multipart, read_urls
from motivnet.server.settings import VIDEO_LIMITS, ServerSettings
from motivnet.server.telemetry import SECURITY_HEADERS, Metrics
from motivnet.server.videos import Videos

T = TypeVar("T")

_LOG = logging.getLogger("motivnet.server")
# Concurrent fetches of all requests together, threads that mostly wait; and of one request, and from one host, so that
# those that wait for slow hosts do not hold all threads.
NUM_FETCHERS, SHARE_OF_FETCHERS = 64, 4


class Service:
    """The state of an application, and its endpoints."""

    def __init__(self, predictor: Predictor, settings: ServerSettings, attention: Attention | None) -> None:
        self.metrics = Metrics()
        self._predictor, self._settings, self._attention = predictor, settings, attention
        self._gate = Gate(settings, self.metrics)
        self._batcher = Batcher(predictor, settings, self.metrics)
        self._decoders = Decoders(settings.image_limits, settings.decode_timeout_s)
        # Of a host, as long as something is fetched from it.
        self._hosts: weakref.WeakValueDictionary[str, asyncio.Semaphore] = weakref.WeakValueDictionary()
        self._videos = Videos(predictor, settings, self._batcher)
        # A decoded photograph is large: one at a time.
        self._explaining = asyncio.Lock()
        self._fetchers = ThreadPoolExecutor(NUM_FETCHERS, thread_name_prefix="motivnet-fetch")

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncGenerator[None, None]:
        """Accept work inside."""
        self._batcher.start()
        try:
            yield
        finally:
            await self._batcher.close()
            await asyncio.to_thread(self._decoders.close)
            # Fetches that nobody awaits any more end at their own time limit.
            self._fetchers.shutdown(wait=False, cancel_futures=True)

    async def predict(self, request: Request) -> Response:
        """Answer with the results of the images of a form."""
        async with self._admitted(request, read_multipart) as (images, hold):
            results = await self._predict(images, hold)
        return self._answer(request, results)

    async def predict_base64(self, request: Request) -> Response:
        """Answer with the results of images that are given as text."""
        async with self._admitted(request, read_base64) as (images, hold):
            results = await self._predict(images, hold)
        return self._answer(request, results)

    async def predict_urls(self, request: Request) -> Response:
        """Answer with the results of the images at URLs."""
        check_token(request, self._settings)
        if not self._settings.allow_urls:
            raise RefusedError(403, "urls", "this server does not fetch images; --allow-urls enables it")
        async with self._admitted(request, read_urls) as (urls, hold):
            async with self._deadline():
                own = asyncio.Semaphore(SHARE_OF_FETCHERS)
                images = await asyncio.gather(*(self._fetch(url, own, hold) for url in urls))
            results = await self._predict(images, hold)
        return self._answer(request, results)

    async def explain(self, request: Request) -> Response:
        """Answer with the result of one image, and an attention map per face."""
        check_token(request, self._settings)
        if self._attention is None:
            detail = "no attention maps: they need ML-Decoder, its torch weights, and torch"
            raise RefusedError(501, "no_attention", detail)
        one_image = dataclasses.replace(self._settings, max_images=1)
        async with self._admitted(request, read_multipart, one_image) as (images, hold):
            async with self._deadline():
                images = await self._decoders.decode(images, hold)
            results = await self._predict(images, hold)
            maps = await self._explain(self._attention, images[0], results[0]) if results[0].faces else []
        return self._answer(request, results, maps)

    async def video(self, request: Request) -> Response:
        """Answer with the rows of one video."""
        check_token(request, self._settings)
        self._videos.check_room()
        async with self._admitted(request, read_multipart, self._settings.of_videos) as (videos, _):
            result = await self._videos.label(videos[0])
        request.state.notes.update(faces=sum(row["status"] == "ok" for row in result["rows"]))
        return JSONResponse({"results": [result]})

    async def models(self, request: Request) -> schemas.Models:
        """Describe the model."""
        check_token(request, self._settings)
        config = self._predictor.config
        same = {name: getattr(config, name) for name in ("name", "summary", "licence", "scores")}
        model = schemas.Model(
            **same,
            labels=list(config.labels),
            affect=config.model.affect,
            attention=self._attention is not None,
            video={name: getattr(self._settings, name) for name in VIDEO_LIMITS},
            preprocessing=config.preprocessing.fingerprint,
        )
        return schemas.Models(models=[model], notice=self._settings.notice)

    async def healthz(self) -> schemas.Status:
        """Answer as long as the process runs."""
        return schemas.Status(status="ok")

    async def readyz(self) -> schemas.Status:
        """Answer while work is accepted."""
        self._batcher.check_open()
        return schemas.Status(status="ready")

    async def show_metrics(self, request: Request) -> Response:
        """Answer with the metrics for Prometheus."""
        check_token(request, self._settings)
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def refuse(self, request: Request, error: Exception) -> Response:
        """Answer a refused request."""
        assert isinstance(error, RefusedError)
        self.metrics.errors.labels(error.reason).inc()
        headers = {
            401: {"WWW-Authenticate": "Bearer"},
            408: {"Connection": "close"},  # the rest of the body would come no faster
            429: {"Retry-After": str(self._settings.retry_after_s)},
        }
        return JSONResponse({"detail": error.detail}, error.status, headers.get(error.status))

    async def fail(self, request: Request, error: Exception) -> Response:
        """Answer a request at which the server broke; the log has the traceback."""
        return JSONResponse({"detail": "the server failed; see its log"}, 500, SECURITY_HEADERS)

    @contextlib.asynccontextmanager
    async def _admitted(
        self,
        request: Request,
        read: Callable[[Request, ServerSettings, Hold], Awaitable[list[T]]],
        settings: ServerSettings | None = None,
    ) -> AsyncGenerator[tuple[list[T], Hold], None]:
        """Read a request, and hold a place for it; the block ends early if the client disconnects."""
        check_token(request, self._settings)
        # Refuse what could not be predicted now before anything of its body is read.
        self._batcher.check_room(1)
        settings = settings or self._settings
        with self._gate.admit(request, settings) as hold:
            with self._batcher.arriving():
                found = await read(request, settings, hold)
            with self._gate.place():
                async with _while_connected(request):
                    yield found, hold

    def _answer(
        self, request: Request, results: list[ImageResult], maps: list[dict[str, Any]] | None = None
    ) -> Response:
        rows = [result.to_dict() for result in results]
        for face, attention in zip(rows[0]["faces"], maps or [], strict=False):
            face["attention"] = attention
        for result in results:
            self.metrics.count(result)
        request.state.notes.update(images=len(results), faces=sum(len(result.faces) for result in results))
        return JSONResponse({"results": rows})

    async def _predict(self, images: list[NamedImage], hold: Hold) -> list[ImageResult]:
        async with self._deadline():
            return await self._batcher.predict(await self._decoders.decode(images, hold))

    async def _explain(self, attention: Attention, image: NamedImage, result: ImageResult) -> list[dict[str, Any]]:
        async with self._deadline(), self._explaining:
            try:
                await asyncio.to_thread(attention.load)
            except (MotivNetError, ModuleNotFoundError) as error:
                _LOG.error("no attention maps: %s", error)
                detail = "no attention maps: the model's torch weights cannot be used; see the server's log"
                raise RefusedError(501, "no_attention", detail) from None
            assert isinstance(image.image, bytes | np.ndarray)
            pixels = await asyncio.to_thread(decode_image, image.image, limits=self._settings.image_limits)
            # One by one, so that batches of other requests can run in between.
            return [await self._batcher.call(functools.partial(attention.of, pixels, face)) for face in result.faces]

    @contextlib.asynccontextmanager
    async def _deadline(self) -> AsyncGenerator[None, None]:
        try:
            async with asyncio.timeout(self._settings.predict_timeout_s):
                yield
        except TimeoutError:
            detail = f"the prediction took longer than {self._settings.predict_timeout_s:g} s"
            raise RefusedError(504, "slow_model", detail) from None

    async def _fetch(self, url: str, own: asyncio.Semaphore, hold: Hold) -> NamedImage:
        settings = self._settings
        limits = FetchLimits(max_bytes=settings.max_image_bytes, timeout_s=settings.fetch_timeout_s, public_only=True)
        try:
            host = self._hosts.setdefault(host_of(url), asyncio.Semaphore(SHARE_OF_FETCHERS))
            async with own:
                await host.acquire()
                call = asyncio.get_running_loop().run_in_executor(self._fetchers, fetch, url, limits)
                # A thread goes on when the client has left.
                call.add_done_callback(lambda done: (host.release(), done.cancelled() or done.exception()))
                data = await asyncio.shield(call)
        except ImageError as error:
            return NamedImage(without_password(url), error)
        hold(len(data))
        return NamedImage(without_password(url), data)


@contextlib.asynccontextmanager
async def _while_connected(request: Request) -> AsyncGenerator[None, None]:
    """Cancel the block when the client disconnects: under load, impatient clients would otherwise be served twice.

    The body must have been read to its end.

    Raises:
        RefusedError: 400, which nobody reads, but which is logged and counted.
    """
    task = asyncio.current_task()
    assert task is not None
    disconnected = False

    async def watch() -> None:
        nonlocal disconnected
        while (await request.receive())["type"] != "http.disconnect":
            pass
        disconnected = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not disconnected:
            raise
        task.uncancel()
        raise RefusedError(400, "client_left", "the client disconnected before the answer") from None
    finally:
        watcher.cancel()

"""Limits of a request: token, concurrent requests, bytes, images, time. Own code, so that no body touches the disk.

Starlette would read forms into temporary files, without a limit of time or bytes.
"""

import asyncio
import contextlib
import dataclasses
import hmac
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_options_header
from starlette.requests import ClientDisconnect, Request

from motivnet.errors import ImageError
from motivnet.images import NamedImage, decode_data_url, is_data_url
from motivnet.machine import return_freed_memory
from motivnet.server.schemas import MAX_TEXT, Base64Request, UrlsRequest
from motivnet.server.settings import ServerSettings
from motivnet.server.telemetry import Metrics

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
# Of requests that hold more, glibc keeps so much, in pieces, that it is given back after a while.
LARGE_BYTES, TIDY_AFTER_S = 16 << 20, 1.0
# Counts bytes that a request holds in memory; RefusedError 429 if there is no room for them.
Hold = Callable[[int], None]


class RefusedError(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        reason: one or two words for the metrics.
        detail: what was found and what is allowed, for the client.
    """

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(status, reason, detail)
        self.status, self.reason, self.detail = status, reason, detail


def check_token(request: Request, settings: ServerSettings) -> None:
    """Refuse a request without the token, in constant time; RefusedError 401."""
    if settings.token is None:
        return
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if not hmac.compare_digest(given.strip().encode(), settings.token.encode()) or scheme.lower() != "bearer":
        raise RefusedError(401, "token", "a token is needed: Authorization: Bearer TOKEN")


class Gate:
    """Limits the number of concurrent requests, and the bytes that they hold in memory."""

    def __init__(self, settings: ServerSettings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._requests = self._bytes = 0
        self._tidying: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def admit(self, request: Request, settings: ServerSettings | None = None) -> Iterator[Hold]:
        """Admit a request before anything of its body is read, and yield what counts its bytes as they arrive.

        What a body declares counts for nothing: who declares much and sends little would lock out everybody.

        Raises:
            RefusedError: 413 if the body declares too large a size, 429 if there is no place, or no room for its bytes.
        """
        settings = settings or self._settings
        # The HTTP parser has checked that the header is a number, if there is one.
        length = request.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) > settings.max_request_bytes:
            raise _too_large(settings)
        self._check_place()
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if self._bytes + size > self._settings.max_held_bytes:
                raise RefusedError(429, "too_many_bytes", f"{self._bytes} bytes are in progress; retry later")
            self._bytes += size
            held += size

        try:
            yield hold
        finally:
            self._bytes -= held
            if held > LARGE_BYTES and not self._tidying:
                self._tidying = asyncio.get_running_loop().call_later(TIDY_AFTER_S, self._tidy)

    def _tidy(self) -> None:
        self._tidying = None
        return_freed_memory()

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place for a request that has arrived; RefusedError 429 if there is none."""
        self._check_place()
        self._metrics.active.inc()
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1
            self._metrics.active.dec()

    def _check_place(self) -> None:
        if self._requests >= self._settings.max_requests:
            raise RefusedError(429, "too_many_requests", f"{self._requests} requests are in progress; retry later")


async def read_multipart(request: Request, settings: ServerSettings, hold: Hold) -> list[NamedImage]:
    """Read the images in the field `files` of a form.

    Raises:
        RefusedError: 413 at too many bytes or images, 415 if it is not a form, 422 if the form is broken, has another
            field, or no image, 408 if it takes too long, 400 if the client disconnects.
    """
    content_type, options = parse_options_header(request.headers.get("Content-Type"))
    if content_type != b"multipart/form-data":
        raise RefusedError(415, "media_type", "Allowed: multipart/form-data with the field 'files'")
    boundary = options.get(b"boundary")
    if not boundary:
        raise RefusedError(422, "form", "broken form: the Content-Type has no boundary")
    images: list[NamedImage] = []
    ended = asyncio.Event()

    def add(part: Field | File) -> None:
        if isinstance(part, Field) or part.field_name != b"files":
            kind, name = "text" if isinstance(part, Field) else "file", _decode_name(part.field_name)[:40]
            raise RefusedError(422, "form", f"{kind} field {name!r}. Allowed: files in the field 'files'")
        contents: Any = part.file_object  # BytesIO, below the infinite limit of memory
        images.append(NamedImage(_decode_name(part.file_name) or f"<bytes {len(images)}>", contents.getvalue()))
        _check_number(images, settings)

    try:
        in_memory = {"MAX_MEMORY_FILE_SIZE": math.inf}
        parser = FormParser("multipart/form-data", add, add, ended.set, boundary=boundary, config=in_memory)
        await _read_body(request, settings, hold, parser.write)
    except FormParserError:  # whose messages repeat what the client sent
        raise RefusedError(422, "form", "broken form: it does not follow its boundary or its headers") from None
    if not ended.is_set():
        raise RefusedError(422, "form", "broken form: it ends too early")
    return _check_number(images, settings)


async def read_base64(request: Request, settings: ServerSettings, hold: Hold) -> list[NamedImage]:
    """Read the images of a `Base64Request`, as the library reads them. Invalid base64 becomes an unreadable image.

    Raises:
        RefusedError: 413 at too many bytes or images, 422 if the body does not follow the schema or has no image, 408
            if it takes too long, 400 if the client disconnects.
    """
    given = _check_number((await _read_json(request, settings, hold, Base64Request)).images, settings)
    images = []
    for n, image in enumerate(given):
        # Browsers give files as data:image/png;base64,...
        url = image.data if is_data_url(image.data) else f"data:;base64,{image.data}"
        try:
            data: bytes | ImageError = await asyncio.to_thread(decode_data_url, url, settings.image_limits)
        except ImageError as error:
            data = error
        images.append(NamedImage(image.name or f"<bytes {n}>", data))
    return images


async def read_urls(request: Request, settings: ServerSettings, hold: Hold) -> list[str]:
    """Read the URLs of a `UrlsRequest`, without checking them.

    Raises:
        RefusedError: as `read_base64`.
    """
    # Each character of a URL may be escaped, by six.
    most = min(settings.max_request_bytes, 6 * (MAX_TEXT + 3) * settings.max_images)
    short = dataclasses.replace(settings, max_request_bytes=most)
    return _check_number((await _read_json(request, short, hold, UrlsRequest)).urls, settings)


def _check_number(images: list[T], settings: ServerSettings) -> list[T]:
    if not images:
        raise RefusedError(422, "no_image", "the request has no image; at least one image is needed")
    if len(images) > settings.max_images:
        raise _too_many_images(settings)
    return images


async def _read_json(request: Request, settings: ServerSettings, hold: Hold, model: type[M]) -> M:
    body = bytearray()
    await _read_body(request, settings, hold, body.extend)
    # Counted before they become objects: a comma is between two of them, or in a short text; base64 needs few escapes.
    most = (MAX_TEXT + 3) * settings.max_images
    if body.count(b",") > most:
        raise _too_many_images(settings)
    if body.count(b"\\") > most + len(body) // 8:
        raise RefusedError(422, "body", "too many escaped characters")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        # Without the input, which is image data.
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise RefusedError(422, "body", f"{where[:100]}: {first['msg']}") from None


def _decode_name(name: bytes | None) -> str:
    """Decode a name as browsers encode it; older clients use Latin-1."""
    try:
        return (name or b"").decode()
    except UnicodeDecodeError:
        return (name or b"").decode("latin-1")


async def _read_body(request: Request, settings: ServerSettings, hold: Hold, write: Callable[[bytes], object]) -> None:
    """Pass the chunks of a body to `write`, up to the limit: it may be longer than it declares, or declare nothing."""
    size = 0
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > settings.max_request_bytes:
                    raise _too_large(settings)
                hold(len(chunk))
                write(chunk)
    except TimeoutError:
        raise RefusedError(408, "slow_body", f"the body took longer than {settings.body_timeout_s:g} s") from None
    except ClientDisconnect:
        # Nobody reads the answer, but it is logged and counted.
        raise RefusedError(400, "client_left", "the body ended too early") from None


def _too_many_images(settings: ServerSettings) -> RefusedError:
    return RefusedError(413, "too_many_images", f"too many images: the limit is {settings.max_images} per request")


def _too_large(settings: ServerSettings) -> RefusedError:
    return RefusedError(413, "too_large", f"the body is too large: the limit is {settings.max_request_bytes} bytes")

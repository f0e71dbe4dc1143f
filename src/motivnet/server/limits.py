"""Limits of a request: token, concurrent requests, bytes, images, time. Own code, so that no body touches the disk.

Starlette would read forms into temporary files, without a limit of time or bytes.
"""

import asyncio
import binascii
import contextlib
import hmac
import math
from base64 import b64decode
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_options_header
from starlette.requests import ClientDisconnect, Request

from motivnet.errors import ImageError
from motivnet.images import NamedImage
from motivnet.server.schemas import Base64Request, UrlsRequest
from motivnet.server.settings import ServerSettings
from motivnet.server.telemetry import Metrics

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


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
    """Limits the number of concurrent requests, and the bytes of their bodies."""

    def __init__(self, settings: ServerSettings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._requests = self._bytes = 0

    @contextlib.contextmanager
    def admit(self, request: Request) -> Iterator[None]:
        """Hold a place for a request, before anything of its body is read.

        Raises:
            RefusedError: 413 if the body declares too large a size, 429 if there is no place.
        """
        settings = self._settings
        # The HTTP parser has checked that the header is a number, if there is one.
        length = request.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else settings.max_request_bytes
        if size > settings.max_request_bytes:
            raise _too_large(settings)
        if self._requests >= settings.max_requests:
            raise RefusedError(429, "too_many_requests", f"{self._requests} requests are in progress; retry later")
        if self._bytes + size > settings.max_held_bytes:
            raise RefusedError(429, "too_many_bytes", f"{self._bytes} bytes are in progress; retry later")
        self._change(1, size)
        try:
            yield
        finally:
            self._change(-1, -size)

    def _change(self, requests: int, size: int) -> None:
        self._requests += requests
        self._bytes += size
        self._metrics.active.set(self._requests)


async def read_multipart(request: Request, settings: ServerSettings) -> list[NamedImage]:
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
        await _read_body(request, settings, parser.write)
    except FormParserError:  # whose messages repeat what the client sent
        raise RefusedError(422, "form", "broken form: it does not follow its boundary or its headers") from None
    if not ended.is_set():
        raise RefusedError(422, "form", "broken form: it ends too early")
    return _check_number(images, settings)


async def read_base64(request: Request, settings: ServerSettings) -> list[NamedImage]:
    """Read the images of a `Base64Request`. Invalid base64 becomes an unreadable image.

    Raises:
        RefusedError: 413 at too many bytes or images, 422 if the body does not follow the schema or has no image, 408
            if it takes too long, 400 if the client disconnects.
    """
    images = _check_number((await _read_json(request, settings, Base64Request)).images, settings)
    return [NamedImage(image.name or f"<bytes {n}>", _decode_base64(image.data)) for n, image in enumerate(images)]


async def read_urls(request: Request, settings: ServerSettings) -> list[str]:
    """Read the URLs of a `UrlsRequest`, without checking them.

    Raises:
        RefusedError: as `read_base64`.
    """
    return _check_number((await _read_json(request, settings, UrlsRequest)).urls, settings)


def _check_number(images: list[T], settings: ServerSettings) -> list[T]:
    if not images:
        raise RefusedError(422, "no_image", "the request has no image; at least one image is needed")
    if len(images) > settings.max_images:
        detail = f"too many images: the limit is {settings.max_images} per request"
        raise RefusedError(413, "too_many_images", detail)
    return images


async def _read_json(request: Request, settings: ServerSettings, model: type[M]) -> M:
    body = bytearray()
    await _read_body(request, settings, body.extend)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        # Without the input, which is image data.
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise RefusedError(422, "body", f"{where[:100]}: {first['msg']}") from None


def _decode_base64(text: str) -> bytes | ImageError:
    # Browsers give files as data:image/png;base64,...
    text = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return ImageError("not base64")


def _decode_name(name: bytes | None) -> str:
    """Decode a name as browsers encode it; older clients use Latin-1."""
    try:
        return (name or b"").decode()
    except UnicodeDecodeError:
        return (name or b"").decode("latin-1")


async def _read_body(request: Request, settings: ServerSettings, write: Callable[[bytes], object]) -> None:
    """Pass the chunks of a body to `write`, up to the limit: it may be longer than it declares, or declare nothing."""
    size = 0
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > settings.max_request_bytes:
                    raise _too_large(settings)
                write(chunk)
    except TimeoutError:
        raise RefusedError(408, "slow_body", f"the body took longer than {settings.body_timeout_s:g} s") from None
    except ClientDisconnect:
        # Nobody reads the answer, but it is logged and counted.
        raise RefusedError(400, "client_left", "the body ended too early") from None


def _too_large(settings: ServerSettings) -> RefusedError:
    return RefusedError(413, "too_large", f"the body is too large: the limit is {settings.max_request_bytes} bytes")

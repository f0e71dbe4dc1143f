"""What a request must respect: token, requests at once, bytes, images, time. No body ever touches the disk."""

import asyncio
import binascii
import contextlib
import dataclasses
import hmac
from base64 import b64decode
from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from motivnet.server.forms import FormError, TooManyFilesError, read_files
from motivnet.server.schemas import Base64Request, UrlsRequest

if TYPE_CHECKING:
    from starlette.requests import Request

    from motivnet.server.metrics import Metrics
    from motivnet.server.settings import ServerSettings

M = TypeVar("M", bound=BaseModel)


class RefusedError(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        reason: one word or two for the metrics.
        detail: what was found and what is allowed, for the client.
        headers: of the answer.
    """

    def __init__(self, status: int, reason: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, reason, detail)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.headers = headers


@dataclasses.dataclass(frozen=True, slots=True)
class Upload:
    """One image of a request.

    Args:
        name: what the client calls it, or its position.
        data: contents of the file.
        error: why there are none; None if there are.
    """

    name: str
    data: bytes
    error: str | None = None


def check_token(request: "Request", settings: "ServerSettings") -> None:
    """Refuse a request without the token, in a time that does not tell how much of it was right.

    Raises:
        RefusedError: 401.
    """
    if settings.token is None:
        return
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if not hmac.compare_digest(given.strip().encode(), settings.token.encode()) or scheme.lower() != "bearer":
        detail = "a token is needed: Authorization: Bearer TOKEN"
        raise RefusedError(401, "token", detail, {"WWW-Authenticate": "Bearer"})


def busy(settings: "ServerSettings", reason: str, detail: str) -> RefusedError:
    """Make the answer to a request for which there is no room now."""
    return RefusedError(429, reason, detail, {"Retry-After": str(settings.retry_after_s)})


class Gate:
    """Lets in as many requests, and as many bytes of their bodies, as are allowed at once."""

    def __init__(self, settings: "ServerSettings", metrics: "Metrics") -> None:
        self._settings = settings
        self._metrics = metrics
        self._requests = 0
        self._bytes = 0

    @contextlib.contextmanager
    def admit(self, request: "Request") -> Iterator[None]:
        """Hold a place for a request, before anything of its body is read.

        Raises:
            RefusedError: 413 if the body says that it is too large, 429 if there is no place.
        """
        settings = self._settings
        # The server below has checked that the header is a number, if it is there.
        length = request.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else settings.max_request_bytes
        if size > settings.max_request_bytes:
            raise _too_large(settings)
        if self._requests >= settings.max_requests:
            raise busy(settings, "too_many_requests", f"{self._requests} requests are in work; come again")
        if self._bytes + size > settings.max_held_bytes:
            raise busy(settings, "too_many_bytes", f"{self._bytes} bytes are in work; come again")
        self._change(1, size)
        try:
            yield
        finally:
            self._change(-1, -size)

    def _change(self, requests: int, size: int) -> None:
        self._requests += requests
        self._bytes += size
        self._metrics.active.set(self._requests)


async def read_multipart(request: "Request", settings: "ServerSettings") -> list[Upload]:
    """Read the images of a form's field `files`.

    Raises:
        RefusedError: 413 at too many bytes or images, 415 if it is no form, 422 at a broken form, another field or no
            image, 408 if it takes too long, 400 if the client leaves.
    """
    content_type = request.headers.get("Content-Type", "")
    if not content_type.lower().startswith("multipart/form-data"):
        raise RefusedError(415, "media_type", "Allowed: multipart/form-data with the field 'files'")
    try:
        async with _body(request, settings) as chunks:
            files = await read_files(content_type, chunks, field="files", max_files=settings.max_images)
    except TooManyFilesError:
        raise _too_many(settings) from None
    except FormError as error:
        raise RefusedError(422, "form", str(error)) from None
    uploads = [Upload(name or f"<bytes {position}>", data) for position, (name, data) in enumerate(files)]
    return _some(uploads, "'files' holds no file")


async def read_base64(request: "Request", settings: "ServerSettings") -> list[Upload]:
    """Read the images of a `Base64Request`. What is not base64 becomes an unreadable image.

    Raises:
        RefusedError: 413 at too many bytes or images, 422 if it is no such object or has no image, 408 if it takes too
            long, 400 if the client leaves.
    """
    images = (await _read_json(request, settings, Base64Request)).images
    if len(images) > settings.max_images:
        raise _too_many(settings)
    uploads = [_decode(image.name or f"<bytes {n}>", image.data) for n, image in enumerate(images)]
    return _some(uploads, "'images' is empty")


async def read_urls(request: "Request", settings: "ServerSettings") -> list[str]:
    """Read the URLs of a `UrlsRequest`; none of them is looked at.

    Raises:
        RefusedError: as `read_base64`.
    """
    urls = (await _read_json(request, settings, UrlsRequest)).urls
    if len(urls) > settings.max_images:
        raise _too_many(settings)
    return _some(urls, "'urls' is empty")


async def _read_json(request: "Request", settings: "ServerSettings", model: type[M]) -> M:
    async with _body(request, settings) as chunks:
        body = b"".join([chunk async for chunk in chunks])
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        # Not the input itself: it is image data.
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise RefusedError(422, "body", f"{where[:100]}: {first['msg']}") from None


def _decode(name: str, text: str) -> Upload:
    # What a browser makes of a file: data:image/png;base64,...
    text = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return Upload(name, b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return Upload(name, b"", "not base64")


def _some(items: list, detail: str) -> list:
    if not items:
        raise RefusedError(422, "no_image", f"{detail}; at least one image is needed")
    return items


@contextlib.asynccontextmanager
async def _body(request: "Request", settings: "ServerSettings") -> AsyncGenerator[AsyncGenerator[bytes, None], None]:
    """Give the chunks of a body, which must have come when this ends."""
    try:
        async with asyncio.timeout(settings.body_timeout_s), contextlib.aclosing(_limited(request, settings)) as chunks:
            yield chunks
    except TimeoutError:
        # Closed, as the rest of the body would come no faster.
        detail = f"the body took longer than {settings.body_timeout_s:g} s"
        raise RefusedError(408, "slow_body", detail, {"Connection": "close"}) from None
    except ClientDisconnect:
        # Nobody reads the answer, but log and metrics have it.
        raise RefusedError(400, "client_left", "the body ended too early") from None


async def _limited(request: "Request", settings: "ServerSettings") -> AsyncGenerator[bytes, None]:
    """Give the body, up to the limit: it may be longer than it says, or not say."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > settings.max_request_bytes:
            raise _too_large(settings)
        if chunk:
            yield chunk


def _too_large(settings: "ServerSettings") -> RefusedError:
    return RefusedError(413, "too_large", f"the body is too large: the limit is {settings.max_request_bytes} bytes")


def _too_many(settings: "ServerSettings") -> RefusedError:
    return RefusedError(413, "too_many_images", f"too many images: the limit is {settings.max_images} a request")

"""What the server reports about itself: metrics for Prometheus, request ids, and a log of one JSON object per line.

Neither contains image data, file names, or query strings.
"""

import atexit
import functools
import logging
import os
import re
import threading
import time
import uuid
from typing import TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from motivnet.config import to_json
from motivnet.inference.results import ImageResult

_LOG = logging.getLogger("motivnet.server.access")
_LIBRARIES = logging.getLogger("motivnet.server.stderr")
REQUEST_ID = "X-Request-ID"
# A client's own id is used if it is harmless in a log.
_HARMLESS_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# No inline code or style, nothing from other hosts, and no text that becomes markup.
_POLICY = (
    "default-src 'self'; media-src blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
# Swagger UI makes markup from text that it has cleaned, has its pictures in its own files, and styles single elements.
_DOCS_POLICY = f"{_POLICY.partition('; require')[0]}; img-src 'self' data:; style-src 'self' 'unsafe-inline'"
SECURITY_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# Attribute of a log record with further entries of its line.
FIELDS = "fields"


class JsonFormatter(logging.Formatter):
    """Format a record as one line: time, level, logger, message, further fields, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time_of_second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{time_of_second}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return to_json(line)


def take_over_stderr() -> TextIO:
    """Return stderr for the log alone: what libraries write to it becomes lines of the log."""
    stderr = os.fdopen(os.dup(2), "w")
    reading, writing = os.pipe()
    # A library that holds the interpreter must not wait for the thread that reads.
    os.set_blocking(writing, False)
    os.dup2(writing, 2)
    os.close(writing)

    def forward() -> None:
        with os.fdopen(reading, errors="replace") as lines:
            for line in lines:
                _LIBRARIES.warning(line.rstrip())

    def give_back() -> None:
        os.dup2(stderr.fileno(), 2)
        thread.join(1)

    thread = threading.Thread(target=forward, name="motivnet-stderr", daemon=True)
    thread.start()
    atexit.register(give_back)
    return stderr


def log_to_stderr(level: str, stream: TextIO | None = None) -> None:
    """Log everything from `level` on, a name in lower case, to stderr, or the stream that stands for it."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # At start and end uvicorn logs what our own lines say.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLogger().level))


class Metrics:
    """The metrics of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = functools.partial(Counter, registry=self.registry)
        gauge = functools.partial(Gauge, registry=self.registry)
        seconds = functools.partial(Histogram, registry=self.registry, buckets=_SECONDS)
        self.requests = counter("motivnet_requests", "Requests answered", ["path", "status"])
        self.request_seconds = seconds("motivnet_request_seconds", "From a request's header to its answer", ["path"])
        self.errors = counter("motivnet_errors", "Requests refused or failed", ["reason"])
        self.active = gauge("motivnet_active_requests", "Prediction requests in progress")
        self.queue_images = gauge("motivnet_queue_images", "Images waiting for a thread or the model")
        self.queue_wait = seconds("motivnet_queue_seconds", "From the acceptance of a request's images to their batch")
        self.batch_images = Histogram(
            "motivnet_batch_images", "Images of a batch", registry=self.registry, buckets=_IMAGES
        )
        self.batch_seconds = seconds("motivnet_batch_seconds", "Time of the model for a batch")
        self.images = counter("motivnet_images", "Images answered", ["status"])
        self.faces = counter("motivnet_faces", "Faces detected", ["emotion"])

    def count(self, result: ImageResult) -> None:
        """Count an image and its faces."""
        self.images.labels(result.status).inc()
        for face in result.faces:
            self.faces.labels(face.emotion).inc()


class Telemetry:
    """ASGI middleware that gives each request an id, returned as X-Request-ID, measures it, and logs it.

    It also adds the headers that all answers have, as it sees all of them.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        """Wrap an application.

        Args:
            app: to wrap.
            metrics: that count each request.
            paths: that metrics name; all others are `other`, so that no client can create time series.
        """
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _HARMLESS_ID.fullmatch(given) else uuid.uuid4().hex
        # Entries that a route adds to its line of the log.
        scope.setdefault("state", {})["notes"] = notes = dict[str, int]()
        # Unless an answer begins: then the application has failed.
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                policy = {"Content-Security-Policy": _DOCS_POLICY} if scope["path"].endswith("/docs") else {}
                MutableHeaders(scope=message).update({REQUEST_ID: request_id, **SECURITY_HEADERS, **policy})
            await send(message)

        start_s = time.perf_counter()
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - start_s
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, status).inc()
            self._metrics.request_seconds.labels(path).observe(seconds)
            line = {"request_id": request_id, "method": scope["method"], "path": path, "status": status}
            _LOG.info("request", extra={FIELDS: line | {"ms": round(1000 * seconds, 1)} | notes})

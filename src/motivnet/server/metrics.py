"""What the server tells about itself: metrics for Prometheus, request ids, one line of log per request.

Neither holds image data, names of files, or query strings.
"""

import logging
import re
import time
import uuid
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import Headers, MutableHeaders

from motivnet.server.logs import FIELDS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from motivnet.inference.results import ImageResult

_LOG = logging.getLogger("motivnet.server.access")
REQUEST_ID = "X-Request-ID"
# A client's own id is taken if it can do no harm in a log.
_GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "motivnet_requests", "Requests that were answered", ["path", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "motivnet_request_seconds",
            "From the head of a request to its answer",
            ["path"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.errors = Counter("motivnet_errors", "Requests that were refused or failed", ["reason"], registry=registry)
        self.active = Gauge("motivnet_active_requests", "Prediction requests in work", registry=registry)
        self.queue_images = Gauge("motivnet_queue_images", "Images that wait for the model", registry=registry)
        self.queue_wait = Histogram(
            "motivnet_queue_seconds", "Time that a request's images waited", registry=registry, buckets=_SECONDS
        )
        self.batch_images = Histogram("motivnet_batch_images", "Images of a batch", registry=registry, buckets=_IMAGES)
        self.batch_seconds = Histogram(
            "motivnet_batch_seconds", "Time that a batch took to predict", registry=registry, buckets=_SECONDS
        )
        self.images = Counter("motivnet_images", "Images that were answered", ["status"], registry=registry)
        self.faces = Counter("motivnet_faces", "Faces that were found", ["emotion"], registry=registry)

    def count(self, result: "ImageResult") -> None:
        """Count an image and its faces."""
        self.images.labels(result.status).inc()
        for face in result.faces:
            self.faces.labels(face.emotion).inc()


class Telemetry:
    """ASGI middleware: give each request an id, measure it, log it. The id stands in the answer's X-Request-ID."""

    def __init__(self, app: "ASGIApp", metrics: Metrics, paths: frozenset[str]) -> None:
        """Wrap an application.

        Args:
            app: what answers.
            metrics: told of each request.
            paths: that metrics name; all others are one, so that no client can make them grow.
        """
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = asked if _GOOD_ID.fullmatch(asked) else uuid.uuid4().hex
        # What a route adds to its line of log.
        notes: dict[str, int] = {}
        scope.setdefault("state", {})["notes"] = notes
        # Stays if the answer never begins: the application failed.
        status = 500

        async def send_with_id(message: "Message") -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
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

"""Limits and batching of the server. Imports nothing heavy, as the command line reads the defaults."""

import dataclasses
import re

from motivnet.config import setting
from motivnet.errors import ConfigError
from motivnet.input_limits import ImageLimits
from motivnet.labels import notice_text

# Settings that a client sees.
VIDEO_LIMITS = ("max_video_s", "max_video_bytes", "max_video_pixels", "video_fps")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """Limits, timeouts, batching and access; `motivnet serve` offers each field as an option.

    Where a number follows a limit, such as 429, it is the HTTP status of the requests beyond it.

    Args:
        allow_urls: Fetch images from public hosts for clients.
        cors_origins: Let pages of https://lab.example call the server; may be repeated.
        allowed_hosts: Answer requests for this host, besides localhost and addresses, or * for any; with a token, any
            is answered unless there are some; may be repeated.
        batch_images: Images that fill a batch; 1 predicts each request by itself.
        batch_wait_ms: Maximum wait for further requests to join a batch, in milliseconds.
        max_queue_images: Images waiting for the model, unless of a single request; beyond, 429.
        max_wait_ms: Estimated wait of an image, in milliseconds, unless few are waiting (two per worker); beyond, 429.
        max_requests: Concurrent prediction requests; beyond, 429.
        max_held_bytes: Bytes of bodies, fetched files and unusual images, decoded, in memory; beyond, 429.
        max_connections: Concurrent connections; beyond, the oldest that wait for a request end, or 503.
        max_request_bytes: Bytes of a body; beyond, 413.
        max_images: Images of a request; beyond, 413.
        max_videos: Videos in progress, of which one is labelled and the others wait; beyond, 429.
        max_video_bytes: Bytes of a request with a video; beyond, 413.
        max_video_s: Seconds of a video; a longer one is unreadable.
        max_video_pixels: Pixels of a frame of a video; a larger one is unreadable.
        video_fps: Frames per second of a video that are looked at, at most.
        video_timeout_s: Seconds for a video to arrive, then 408; and to be labelled, then 504.
        max_image_bytes: Bytes of an image; a larger one is unreadable.
        max_pixels: Pixels of an image; a larger one is unreadable.
        header_timeout_s: Seconds for the header of a request.
        body_timeout_s: Seconds for a body to arrive, then 408; and for an answer to be taken.
        decode_timeout_s: Seconds to decode the unusual images of a request, such as WebP or HEIC; the others are
            unreadable.
        predict_timeout_s: Seconds for an answer; then 504.
        fetch_timeout_s: Seconds to fetch the image at a URL.
        shutdown_timeout_s: Seconds for accepted requests to finish at shutdown.
        retry_after_s: Seconds after which a client should retry after a 429.
        notice: Text for those seen; eu: as the AI Act, Article 50(3), asks.
        docs: Serve Swagger UI, a page to try the routes, at /docs.
    """

    allow_urls: bool = setting(False)
    cors_origins: tuple[str, ...] = setting((), flag="cors-origin", metavar="ORIGIN")
    allowed_hosts: tuple[str, ...] = setting((), flag="allowed-host", metavar="HOST")
    batch_images: int = setting(32)
    batch_wait_ms: float = setting(5.0)
    max_queue_images: int = setting(64)
    max_wait_ms: float = setting(25.0)
    max_requests: int = setting(256)
    max_held_bytes: int = setting(500_000_000)
    max_connections: int = setting(1024)
    max_request_bytes: int = setting(50_000_000)
    max_images: int = setting(32)
    max_videos: int = setting(2)
    max_video_bytes: int = setting(100_000_000)
    max_video_s: float = setting(60.0)
    max_video_pixels: int = setting(8_847_360)
    video_fps: float = setting(10.0)
    video_timeout_s: float = setting(120.0)
    max_image_bytes: int = setting(20_000_000)
    max_pixels: int = setting(50_000_000)
    header_timeout_s: float = setting(10.0)
    body_timeout_s: float = setting(30.0)
    decode_timeout_s: float = setting(10.0)
    predict_timeout_s: float = setting(60.0)
    fetch_timeout_s: float = setting(10.0)
    shutdown_timeout_s: int = setting(30)
    retry_after_s: int = setting(1)
    notice: str | None = setting(None, metavar="TEXT|eu", parse=notice_text)
    docs: bool = setting(True)
    # Clients must send it as `Authorization: Bearer TOKEN`; None: no token is needed.
    token: str | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: if one is out of range, or two contradict each other.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # A wait of 0 still joins the requests that have arrived.
            if field.type in (int, float) and not (value > 0 or (value == 0 and field.name == "batch_wait_ms")):
                raise ConfigError(f"{field.name} {value}. Allowed: numbers above 0")
        if self.token is not None and not re.fullmatch("[!-~]+", self.token):
            raise ConfigError("token that is not valid in a header. Allowed: printable ASCII characters without spaces")
        for origin in self.cors_origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                raise ConfigError(f"origin {origin!r}. Allowed: such as https://lab.example, without a path; or *")
        if self.max_held_bytes < self.max_request_bytes:
            raise ConfigError(
                f"max_held_bytes {self.max_held_bytes} is below max_request_bytes {self.max_request_bytes}: the "
                "largest allowed request could never be accepted"
            )

    @property
    def of_videos(self) -> "ServerSettings":
        """The settings for a request with a video."""
        most = min(self.max_video_bytes, self.max_held_bytes)
        return dataclasses.replace(self, max_images=1, max_request_bytes=most, body_timeout_s=self.video_timeout_s)

    @property
    def image_limits(self) -> ImageLimits:
        """Limits of the decoder."""
        return ImageLimits(max_bytes=self.max_image_bytes, max_pixels=self.max_pixels)

"""What the server allows, and how it batches. Imports nothing heavy, as the command line states the defaults."""

import dataclasses
import re
from typing import TYPE_CHECKING

from motivnet.errors import ConfigError

if TYPE_CHECKING:
    from motivnet.images import ImageLimits


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """Limits, time-outs, batching and access.

    Args:
        max_image_bytes: largest file; a larger one is unreadable, the others of its request are not.
        max_pixels: largest height x width; a larger image is unreadable.
        max_images: most images of a request.
        max_request_bytes: largest body of a request.
        max_connections: most connections at once; those beyond are answered with 503.
        max_requests: most prediction requests at once, from the first byte of their bodies to their answers.
        max_held_bytes: most bytes of bodies at once; a body of unknown length counts as `max_request_bytes`.
        max_queue_images: most images that wait for the model; a request with more is taken if no other waits.
        batch_images: images that are enough for a batch; 1 predicts each request by itself.
        batch_wait_ms: how long a request waits at most, in milliseconds, for others that are on their way.
        header_timeout_s: how long the head of a request may take to arrive, in seconds.
        body_timeout_s: how long a body may take to arrive, in seconds.
        predict_timeout_s: how long an accepted request may take to be answered, in seconds.
        shutdown_timeout_s: how long accepted requests may take at the end, in seconds.
        retry_after_s: when a client that was refused for want of room should come again, in whole seconds.
        allow_urls: whether the server fetches images from public hosts for its clients.
        fetch_timeout_s: how long all of a request's fetches may take, in seconds.
        token: what clients must send as `Authorization: Bearer TOKEN`; None asks for nothing.
        cors_origins: origins whose pages may call the server, such as `https://lab.example`; none by default.
    """

    max_image_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    max_images: int = 32
    max_request_bytes: int = 50_000_000
    max_connections: int = 1024
    max_requests: int = 256
    max_held_bytes: int = 500_000_000
    max_queue_images: int = 64
    batch_images: int = 32
    batch_wait_ms: float = 5.0
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    predict_timeout_s: float = 60.0
    shutdown_timeout_s: int = 30
    retry_after_s: int = 1
    allow_urls: bool = False
    fetch_timeout_s: float = 10.0
    token: str | None = dataclasses.field(default=None, repr=False)
    cors_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: if one is out of range, or two contradict each other.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # A wait of 0 is one: for what has come already.
            if field.type in (int, float) and not (value > 0 or (value == 0 and field.name == "batch_wait_ms")):
                raise ConfigError(f"{field.name} {value}. Allowed: numbers above 0")
        if self.token is not None and not re.fullmatch("[!-~]+", self.token):
            raise ConfigError("token that no header could carry. Allowed: printable ASCII characters without spaces")
        for origin in self.cors_origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                raise ConfigError(f"origin {origin!r}. Allowed: such as https://lab.example, without a path; or *")
        if self.max_held_bytes < self.max_request_bytes:
            raise ConfigError(
                f"max_held_bytes {self.max_held_bytes} is below max_request_bytes {self.max_request_bytes}: the "
                "largest request that is allowed could never be accepted"
            )

    @property
    def image_limits(self) -> "ImageLimits":
        """What the decoder refuses."""
        from motivnet.images import ImageLimits

        return ImageLimits(max_bytes=self.max_image_bytes, max_pixels=self.max_pixels)

"""What uvicorn leaves open of HTTP: how long the head of a request may take, and how large it may be.

Without, a client that sends a byte now and then holds its connection for ever.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from motivnet.server.settings import ServerSettings

MAX_HEAD_BYTES = 65_536


class PatientProtocol(HttpToolsProtocol):
    """One connection. Patient, but not for ever.

    The rest of a body whose request has been answered already (refused, that is) is read and thrown away, as a client
    that is cut off while it sends may not see the answer; it has as long as a body.
    """

    def __init__(self, *args: Any, settings: "ServerSettings", **others: Any) -> None:
        super().__init__(*args, **others)
        self._settings = settings
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = False
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Start the clock for the first head."""
        super().connection_made(transport)
        self._start(self._settings.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """End a head."""
        self._in_head = False
        self._head_bytes = 0
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Take in data, against the clock unless a request is in work, which has time limits of its own."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._timer is None and not self.transport.is_closing():
            self._start(self._settings.header_timeout_s if self._in_head else self._settings.body_timeout_s)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response(f"The head of the request is too large: the limit is {MAX_HEAD_BYTES} bytes.")

    def _start(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

"""Serve the application with uvicorn: bind, answer, and end without losing what was accepted.

`TimedProtocol` adds what uvicorn lacks. The others that were tried: h11, in uvicorn and Hypercorn, bounds heads and
trailers but takes extensions of chunks without end; Granian's hyper bounds all three, but not how long a client takes
to read, and Granian binds and forks by itself, before a mistake in the model can show.
"""

import asyncio
import contextlib
import copy
import functools
import heapq
import ipaddress
import logging
import signal
import socket
import struct
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from motivnet.errors import ConfigError
from motivnet.server.settings import ServerSettings
from motivnet.server.telemetry import SECURITY_HEADERS

_LOG = logging.getLogger("motivnet.server")
MAX_HEADER_BYTES = 65_536
# What is given to the parser at once.
FEED_BYTES = 16_384
# Requests of a connection that wait for the answers to those before them.
MAX_PIPELINED = 16
# That end when there are too many, of all that there may be.
SHARE_OF_CONNECTIONS = 32
# Of the body of a refused request.
MAX_DISCARDED_BYTES, LINGER_REFUSED_S = 8_000_000, 5.0
# At shutdown, idle connections stay open for this long, as a request may be on its way.
LINGER_S = 0.2
BACKLOG = 2048
# How long a thread may hold the interpreter while others want it. Python's default, 5 ms, is longer than most of the
# many steps of a request.
SWITCH_S = 0.0005


def check_exposure(host: str, settings: ServerSettings, *, insecure: bool) -> None:
    """Refuse to serve other machines without a token, unless requested.

    Raises:
        ConfigError: if `host` is not a loopback address, there is no token, and `insecure` is false.
    """
    if settings.token is None and not insecure and not _is_loopback(host):
        raise ConfigError(
            f"host {host!r} can be reached from other machines, and there is no token. Allowed: a token in the "
            "environment variable MOTIVNET_TOKEN or with --token-file; --insecure, if access is restricted by other "
            "means; --host 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind(host: str, port: int) -> socket.socket:
    """Bind the port, without listening yet, so that a mistake shows before a model is loaded.

    Raises:
        ConfigError: if it is not available.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with contextlib.ExitStack() as undo:
            sock = undo.enter_context(socket.socket(family, kind, protocol))
            # Not on Windows, where it lets two servers share a port.
            if hasattr(signal, "SIGKILL"):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            undo.pop_all()
            return sock
    except (OSError, OverflowError) as error:
        raise ConfigError(f"{host}:{port}: cannot listen there: {getattr(error, 'strerror', None) or error}") from None


def run(app: FastAPI, settings: ServerSettings, sock: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was accepted.

    Args:
        app: created with the same settings.
        settings: limits of connections and time.
        sock: where to listen, from `bind`.
    """
    config = uvicorn.Config(
        app,
        http=functools.partial(TimedProtocol, settings=settings),  # pyright: ignore[reportArgumentType]
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
    )
    server = _Server(config)
    sys.setswitchinterval(SWITCH_S)
    # At its end uvicorn raises the signal again for the handlers that it found: with its own there, the exit code is 0.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    with sock:
        server.run(sockets=[sock])


class TimedProtocol(HttpToolsProtocol):
    """One connection, with limits of what uvicorn leaves open.

    - Bytes that are no body (head, extensions of chunks, trailers) are counted before they are parsed.
    - A head, a body and the taking of an answer end in time.
    - When there are too many connections, those that have waited longest for a request end.
    - Few requests are taken before the answers to those before them, which uvicorn would queue without end.
    - After an early refusal, some of the rest of the body is read and discarded: a client that is cut off while it
      sends may not see the answer.
    """

    _timer: asyncio.TimerHandle | None

    def __init__(self, *args: Any, settings: ServerSettings, **others: Any) -> None:
        super().__init__(*args, **others)
        self._settings, self._timer, self._write_timer = settings, None, None
        self._in_header, self._overhead, self._discarded, self._since_s = False, 0, 0, self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Start the timer of the first header, and make room."""
        super().connection_made(transport)
        # Any byte that the client does not take pauses writing, which is timed.
        transport.set_write_buffer_limits(high=0)
        self._start(self._settings.header_timeout_s)
        if len(self.connections) > self._settings.max_connections:
            others: Any = self.connections - {self}
            waiting = [other for other in others if other.is_waiting]
            # Some at once, as to look for them takes as long as for one.
            number = max(1, self._settings.max_connections // SHARE_OF_CONNECTIONS)
            for other in heapq.nsmallest(number, waiting, key=lambda other: other._since_s):
                other.transport.abort()

    @property
    def is_waiting(self) -> bool:
        """Whether no request has arrived as a whole that is yet to be answered."""
        return self.cycle is None or self.cycle.more_body or self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._stop()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Give the client as long to take what was written as a body may take."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._settings.body_timeout_s, self._reset)

    def resume_writing(self) -> None:
        """Go on, as the client has taken everything."""
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def on_message_begin(self) -> None:
        """Begin a header."""
        self._in_header, self._discarded, self._since_s = True, 0, self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """End a header; ValueError, which the parser makes a 400, if it is too large, or too many wait."""
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEADER_BYTES:
            raise ValueError("the header is too large")
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests before the answers")
        self._in_header = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Receive a piece of a body, which may have as many bytes around it."""
        self._overhead = max(0, self._overhead - 2 * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._overhead = 0
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Receive data, timed unless a request is in progress, which has time limits of its own."""
        for start in range(0, len(data), FEED_BYTES):
            piece = data[start : start + FEED_BYTES]
            self._overhead += len(piece)
            super().data_received(piece)
            if self.transport.is_closing():
                return
            if self._overhead > MAX_HEADER_BYTES:
                self.send_400_response(f"The request's header is too large: the limit is {MAX_HEADER_BYTES} bytes.")
                return
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
            return
        refused = self.cycle is not None and self.cycle.more_body and not self._in_header
        self._discarded += len(data) if refused else 0
        if self._discarded > MAX_DISCARDED_BYTES:
            self.transport.abort()
        elif self._timer is None:
            self._start(LINGER_REFUSED_S if refused else self._settings.header_timeout_s)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or too large, with the headers that all answers have, unless one has begun."""
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()
            return
        self.server_state = copy.copy(self.server_state)
        own = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
        self.server_state.default_headers = self.server_state.default_headers + own
        super().send_400_response(msg)

    def _reset(self) -> None:
        """End the connection with all that the kernel holds for it, some megabytes that nobody may ever read."""
        linger = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()

    def _start(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for sock in sockets or []:
            host, port = sock.getsockname()[:2]
            _LOG.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Announce the end of the connection with each answer, before idle connections are closed."""
        _LOG.info("shutting down: finishing accepted requests")
        for server in self.servers:
            server.close()
        # In place: requests in progress hold this list.
        headers: list[Any] = self.server_state.default_headers
        headers.append((b"connection", b"close"))
        await asyncio.sleep(LINGER_S)
        await super().shutdown(sockets)
        _LOG.info("ended")

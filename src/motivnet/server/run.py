"""Serve the application with uvicorn: bind, answer, and end without losing what was accepted.

`TimedProtocol` adds what uvicorn lacks: limits of the time and size of a request's header. Without them, a client that
sends a byte now and then holds its connection for ever.
"""

import asyncio
import contextlib
import functools
import ipaddress
import logging
import signal
import socket
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from motivnet.errors import ConfigError
from motivnet.server.settings import ServerSettings

_LOG = logging.getLogger("motivnet.server")
MAX_HEADER_BYTES = 65_536
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
        limit_concurrency=settings.max_connections,
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
    """One connection, with limits for the time and size of headers.

    After an early refusal, the rest of the body is read and discarded for as long as a body may take: a client that is
    cut off while it sends may not see the answer.
    """

    _timer: asyncio.TimerHandle | None

    def __init__(self, *args: Any, settings: ServerSettings, **others: Any) -> None:
        super().__init__(*args, **others)
        self._settings, self._timer = settings, None
        self._in_header, self._header_bytes = False, 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Start the timer of the first header."""
        super().connection_made(transport)
        self._start(self._settings.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin a header."""
        self._in_header = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """End a header."""
        self._in_header, self._header_bytes = False, 0
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Receive data, timed unless a request is in progress, which has time limits of its own."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._timer is None and not self.transport.is_closing():
            self._start(self._settings.header_timeout_s if self._in_header else self._settings.body_timeout_s)
        if self._in_header:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
                self.send_400_response(f"The request's header is too large: the limit is {MAX_HEADER_BYTES} bytes.")

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

"""Serve the application with uvicorn: bind, answer, and end without losing what was accepted."""

import asyncio
import functools
import ipaddress
import logging
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import uvicorn

from motivnet.errors import ConfigError
from motivnet.server.protocol import PatientProtocol

if TYPE_CHECKING:
    from fastapi import FastAPI

    from motivnet.server.settings import ServerSettings

_LOG = logging.getLogger("motivnet.server")
# At the end, connections on which a client's request may be under way stay open for so long.
LINGER_S = 0.2
BACKLOG = 2048
# How long a thread may keep Python to itself while others want it. Python's own 5 ms are more than most of the many
# steps of a request take.
SWITCH_S = 0.0005


def check_exposure(host: str, settings: "ServerSettings", *, insecure: bool) -> None:
    """Refuse to serve anybody who can reach this machine, unless that is asked for.

    Raises:
        ConfigError: if `host` is not this machine alone, there is no token, and `insecure` is false.
    """
    if settings.token is None and not insecure and not _is_loopback(host):
        raise ConfigError(
            f"host {host!r} can be reached from other machines, and there is no token. Allowed: a token in the "
            "environment variable MOTIVNET_TOKEN or with --token-file; --insecure, if something else keeps strangers "
            "out; --host 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind(host: str, port: int) -> socket.socket:
    """Take the port, without listening yet, so that a mistake shows before a model is loaded.

    Raises:
        ConfigError: if it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        try:
            # Not on Windows, where it lets two servers share a port.
            if hasattr(signal, "SIGKILL"):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        except BaseException:
            sock.close()
            raise
    except (OSError, OverflowError) as error:
        raise ConfigError(f"{host}:{port}: cannot listen there: {getattr(error, 'strerror', None) or error}") from None
    return sock


def run(app: "FastAPI", settings: "ServerSettings", sock: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was accepted.

    Args:
        app: made with the same settings.
        settings: limits of connections and time.
        sock: where to listen, from `bind`.
    """
    config = uvicorn.Config(
        app,
        http=functools.partial(PatientProtocol, settings=settings),  # pyright: ignore[reportArgumentType]
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
    # uvicorn passes the signal on when it has ended, to whom it was for before: a clean end is no death by signal.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    with sock:
        server.run(sockets=[sock])


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for sock in sockets or []:
            host, port = sock.getsockname()[:2]
            _LOG.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let clients know with each answer that the connection ends, before those that are idle are closed."""
        _LOG.info("shutting down: finishing what was accepted")
        for server in self.servers:
            server.close()
        # In place: requests in work hold this list.
        headers: list[Any] = self.server_state.default_headers
        headers.append((b"connection", b"close"))
        await asyncio.sleep(LINGER_S)
        await super().shutdown(sockets)
        _LOG.info("ended")

"""Which hosts and origins a request may name, and how many are answered at once.

Own code: Starlette's list of hosts knows no addresses, and no library checks origins without cookies.
"""

import ipaddress
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from motivnet.server.limits import RefusedError
from motivnet.server.settings import ServerSettings


class Access:
    """ASGI middleware that refuses requests for other hosts, from pages of other origins, and too many at once."""

    def __init__(
        self, app: ASGIApp, settings: ServerSettings, refuse: Callable[[Request, Exception], Awaitable[Response]]
    ) -> None:
        """Wrap an application.

        Args:
            app: to wrap.
            settings: hosts, origins, and the number of connections.
            refuse: makes the answer of a `RefusedError`.
        """
        self._app, self._settings, self._refuse = app, settings, refuse
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._active += 1
        try:
            self._check(scope["method"], Headers(scope=scope))
            await self._app(scope, receive, send)
        except RefusedError as error:
            response = await self._refuse(Request(scope), error)
            await response(scope, receive, send)
        finally:
            self._active -= 1

    def _check(self, method: str, headers: Headers) -> None:
        if self._active > self._settings.max_connections:
            raise RefusedError(503, "too_many_connections", "too many connections; retry later")
        host = headers.get("Host", "")
        if not self._is_own(host):
            detail = f"host {host[:100]!r}. Allowed: localhost, addresses, and what --allowed-host names"
            raise RefusedError(403, "host", detail)
        if method not in ("GET", "HEAD", "OPTIONS") and self._is_foreign(headers, host):
            raise RefusedError(403, "origin", "a page of another origin. Allowed: those that --cors-origin names")

    def _is_own(self, host: str) -> bool:
        """Tell whether a host is ours; a page whose name was made to lead here (DNS rebinding) sends its own."""
        allowed = self._settings.allowed_hosts
        # With a token, such a page gets nothing, as it does not know it. Browsers always name the host.
        if not host or "*" in allowed or (self._settings.token is not None and not allowed):
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in ("localhost", *allowed) or bool(ipaddress.ip_address(name))
        except ValueError:
            return False

    def _is_foreign(self, headers: Headers, host: str) -> bool:
        """Tell whether a browser sends this for a page of another origin; others than browsers name none."""
        origin, site = headers.get("Origin"), headers.get("Sec-Fetch-Site")
        if {"*", origin} & {*self._settings.cors_origins}:
            return False
        if site is not None:
            return site not in ("same-origin", "none")
        return origin is not None and origin.partition("://")[2].lower() != host.lower()

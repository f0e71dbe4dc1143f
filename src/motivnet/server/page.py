"""The page at `/`: files as they lie in the folder `page`, with headers that let nothing else in.

The page needs no build and no other host. It calls the routes that any client calls, with relative addresses, so that
it also works behind a proxy that serves it below a path.
"""

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).with_name("page")

# Neither code nor style in the page itself, nothing from elsewhere, and no text that turns into markup.
_POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Asked for again each time, and answered with 304: a new version is seen at once.
    "Cache-Control": "no-cache",
}
# What the system makes of a suffix differs, and browsers refuse a module that is not said to be one.
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class _Page(StaticFiles):
    """Files with the headers."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        if response.status_code == 200:
            response.headers["Content-Type"] = _TYPES[Path(path).suffix]
        return response


def add_page(app: FastAPI) -> None:
    """Serve the page at `/` and its files below `/page`, without a token: there is nothing in them to protect."""
    files = _Page(directory=FOLDER)

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def index(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    app.mount("/page", files)

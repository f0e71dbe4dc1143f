"""The FastAPI application: routes, middleware, and the page at `/`.

The page is the files of the folder `page`, without a build step or other hosts. It calls the public routes with
relative URLs, so that it also works behind a proxy that serves it below a path.
"""

import copy
import mimetypes
from pathlib import Path
from typing import Any

import fastapi_swagger
from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from motivnet.inference.predictor import Predictor
from motivnet.server import schemas
from motivnet.server.access import Access
from motivnet.server.attention import Attention
from motivnet.server.limits import RefusedError
from motivnet.server.service import Service
from motivnet.server.settings import ServerSettings
from motivnet.server.telemetry import Telemetry
from motivnet.version import __version__

# Of every prediction.
_USUAL = (400, 401, 403, 408, 413, 415, 422, 429, 500, 503, 504)
PAGE = Path(__file__).with_name("page")
# Browsers refuse modules of another type, and what the system has for a suffix differs.
_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}
for _suffix, _type in _TYPES.items():
    mimetypes.add_type(_type, _suffix)


def create_app(
    predictor: Predictor, settings: ServerSettings | None = None, *, attention: Attention | None = None
) -> FastAPI:
    """Create the application. It accepts work between the start-up and the shutdown of its lifespan.

    At shutdown it accepts no more work, and finishes what was accepted.

    Args:
        predictor: that answers; the settings replace its limits.
        settings: None takes the defaults.
        attention: of the predictor, from `find_attention`; None answers /v1/explain with 501.

    Returns:
        An ASGI application for one lifespan; `app.state.metrics` are its metrics.
    """
    settings = settings or ServerSettings()
    # A copy, as the caller's keeps its limits.
    predictor = copy.copy(predictor)
    predictor.limits = settings.image_limits
    service = Service(predictor, settings, attention)
    app = FastAPI(
        title="motivnet",
        summary="Emotions of the faces in photographs",
        version=__version__,
        lifespan=service.lifespan,
        # Its own pages load scripts from other hosts.
        docs_url=None,
        redoc_url=None,
    )
    app.state.metrics = service.metrics
    app.add_exception_handler(RefusedError, service.refuse)
    app.add_exception_handler(Exception, service.fail)
    _add_routes(app, service)
    _add_page(app, docs=settings.docs)
    app.add_middleware(Access, settings=settings, refuse=service.refuse)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
            expose_headers=["Retry-After", "X-Request-ID"],
        )
    paths = frozenset(getattr(route, "path", "/") for route in app.routes)
    app.add_middleware(Telemetry, metrics=service.metrics, paths=paths)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    form = {"multipart/form-data": {"schema": schemas.OPENAPI["form"]}}
    base64 = {"application/json": {"schema": _base64_schema()}}
    urls = {"application/json": {"schema": schemas.UrlsRequest.model_json_schema()}}
    # Path, endpoint, its answer, its body (which it reads itself, within the limits), errors of its own, summary.
    for path, endpoint, answer, body, own, summary in (
        ("predict", service.predict, schemas.Answer, form, (), "Predict the images of a form"),
        ("predict/base64", service.predict_base64, schemas.Answer, base64, (), "Predict images given as text"),
        ("predict/urls", service.predict_urls, schemas.Answer, urls, (), "Predict images at URLs, if allowed"),
        ("video", service.video, schemas.VideoAnswer, form, (), "Predict the frames of one video"),
        ("explain", service.explain, schemas.Explanations, form, (501,), "Predict one image with attention maps"),
    ):
        app.add_api_route(
            f"/v1/{path}",
            endpoint,
            methods=["POST"],
            response_model=answer,
            responses=_refusals(*_USUAL, *own),
            openapi_extra={"requestBody": {"required": True, "content": body}},
            summary=summary,
        )
    for path, endpoint, own, summary in (
        ("/v1/models", service.models, (401,), "The model that answers"),
        ("/healthz", service.healthz, (), "Whether the process runs"),
        ("/readyz", service.readyz, (503,), "Whether work is accepted"),
        ("/metrics", service.show_metrics, (401,), "Prometheus metrics"),
    ):
        kind = Response if path == "/metrics" else JSONResponse
        app.add_api_route(path, endpoint, responses=_refusals(403, *own), response_class=kind, summary=summary)
        app.add_api_route(path, endpoint, methods=["HEAD"], response_class=kind, include_in_schema=False)


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    meanings = schemas.OPENAPI["refusals"]
    return {status: {"model": schemas.Refusal, "description": meanings[str(status)]} for status in statuses}


def _base64_schema() -> dict[str, Any]:
    """Return the schema without references: FastAPI collects definitions only of bodies that it reads itself."""
    schema = schemas.Base64Request.model_json_schema()
    schema["properties"]["images"]["items"] = schema.pop("$defs")["Base64Image"]
    return schema


class _Page(StaticFiles):
    """Static files that are revalidated each time, and answered with 304: a new version shows at once."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _add_page(app: FastAPI, *, docs: bool) -> None:
    """Serve the page at `/` and its files below `/page`, without a token: they hold nothing to protect.

    And Swagger UI at `/docs`: its files are those of the package fastapi-swagger.
    """
    files = _Page(directory=PAGE)

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def index(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    app.mount("/page", files)
    if docs:

        @app.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
        async def show_docs(request: Request) -> Response:
            return await files.get_response("docs.html", request.scope)

        app.mount("/docs/files", _Page(directory=Path(fastapi_swagger.__file__).with_name("resources")))

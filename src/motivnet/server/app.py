"""The FastAPI application: routes, and what ties the parts together."""

import copy
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from motivnet.inference.predictor import Predictor
from motivnet.server import schemas
from motivnet.server.limits import RefusedError, check_token, read_base64, read_multipart
from motivnet.server.metrics import Metrics, Telemetry
from motivnet.server.page import add_page
from motivnet.server.service import Service
from motivnet.server.settings import ServerSettings
from motivnet.version import __version__

if TYPE_CHECKING:
    from motivnet.server.attention import Attention

_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": schemas.Refusal, "description": "The body ended too early"},
    401: {"model": schemas.Refusal, "description": "No token, or a wrong one"},
    408: {"model": schemas.Refusal, "description": "The body took too long to arrive"},
    413: {"model": schemas.Refusal, "description": "Too many bytes or images"},
    415: {"model": schemas.Refusal, "description": "No form"},
    422: {"model": schemas.Refusal, "description": "A broken body, or no image"},
    429: {"model": schemas.Refusal, "description": "No room now: come again after Retry-After seconds"},
    500: {"model": schemas.Refusal, "description": "The model failed"},
    503: {"model": schemas.Refusal, "description": "Starting, or shutting down"},
    504: {"model": schemas.Refusal, "description": "The prediction took too long"},
}
# What metrics name.
_PATHS = frozenset(
    {
        *("/v1/predict", "/v1/predict/base64", "/v1/predict/urls", "/v1/explain", "/v1/models"),
        *("/", "/healthz", "/readyz", "/metrics", "/openapi.json"),
    }
)
_URLS_OFF = {"model": schemas.Refusal, "description": "This server fetches no images"}
_NO_ATTENTION = {"model": schemas.Refusal, "description": "This server cannot show where its model looks"}
_FORM = {
    "type": "object",
    "required": ["files"],
    "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}},
}


def _body(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Describe a body that the route reads itself, to hold it to the limits."""
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


def create_app(
    predictor: Predictor, settings: ServerSettings | None = None, *, attention: "Attention | None" = None
) -> FastAPI:
    """Make the application. Work is accepted between the start-up and the shutdown of its lifespan.

    At the shutdown no more work is taken, and what was accepted is finished.

    Args:
        predictor: what answers; its limits give way to those of the settings.
        settings: None takes the defaults.
        attention: of the predictor, from `find_attention`; without, /v1/explain answers 501.

    Returns:
        An ASGI application; `app.state.metrics` are its metrics.
    """
    settings = settings or ServerSettings()
    # A copy, as the caller's keeps its limits.
    predictor = copy.copy(predictor)
    predictor.limits = settings.image_limits
    metrics = Metrics()
    service = Service(predictor, settings, metrics, attention)
    app = FastAPI(
        title="motivnet",
        summary="Emotions of the faces in photographs",
        version=__version__,
        lifespan=service.lifespan,
        # These pages load scripts from other hosts.
        docs_url=None,
        redoc_url=None,
    )
    app.state.metrics = metrics
    app.add_exception_handler(RefusedError, service.refuse)
    _add_routes(app, service)
    add_page(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
            expose_headers=["Retry-After", "X-Request-ID"],
        )
    app.add_middleware(Telemetry, metrics=metrics, paths=_PATHS)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/predict",
        response_model=schemas.Answer,
        responses=_ERRORS,
        openapi_extra=_body("multipart/form-data", _FORM),
        summary="Predict the images of a form",
    )
    async def predict(request: Request) -> Response:
        return await service.predict(request, read_multipart)

    @app.post(
        "/v1/predict/base64",
        response_model=schemas.Answer,
        responses=_ERRORS,
        openapi_extra=_body("application/json", _base64_schema()),
        summary="Predict images that are given as text",
    )
    async def predict_base64(request: Request) -> Response:
        return await service.predict(request, read_base64)

    @app.post(
        "/v1/predict/urls",
        response_model=schemas.Answer,
        responses=_ERRORS | {403: _URLS_OFF},
        openapi_extra=_body("application/json", schemas.UrlsRequest.model_json_schema()),
        summary="Predict images that the server fetches, if it was started so",
    )
    async def predict_urls(request: Request) -> Response:
        return await service.predict_urls(request)

    @app.post(
        "/v1/explain",
        response_model=schemas.Explanations,
        responses=_ERRORS | {501: _NO_ATTENTION},
        openapi_extra=_body("multipart/form-data", _FORM),
        summary="Predict one image, and show where the model looked",
    )
    async def explain(request: Request) -> Response:
        return await service.explain(request)

    @app.get("/v1/models", responses={401: _ERRORS[401]}, summary="The model that answers")
    async def models(request: Request) -> schemas.Models:
        check_token(request, service.settings)
        return schemas.Models(models=[_model(service)])

    @app.get("/healthz", summary="Whether the server is there")
    async def healthz() -> schemas.Status:
        return schemas.Status(status="ok")

    @app.get("/readyz", responses={503: _ERRORS[503]}, summary="Whether the server takes work")
    async def readyz() -> schemas.Status:
        service.ready()
        return schemas.Status(status="ready")

    @app.get("/metrics", response_class=Response, responses={401: _ERRORS[401]}, summary="Metrics for Prometheus")
    async def metrics(request: Request) -> Response:
        check_token(request, service.settings)
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _base64_schema() -> dict[str, Any]:
    """Give the schema in one piece: FastAPI collects definitions only of bodies that it reads itself."""
    schema = schemas.Base64Request.model_json_schema()
    image = schema.pop("$defs")["Base64Image"]
    schema["properties"]["images"]["items"] = image
    return schema


def _model(service: Service) -> schemas.Model:
    config = service.predictor.config
    return schemas.Model(
        name=config.name,
        summary=config.summary,
        licence=config.licence,
        labels=list(config.labels),
        affect=config.model.affect,
        attention=service.attention is not None,
        preprocessing=config.preprocessing.fingerprint,
        scores=config.scores,
    )

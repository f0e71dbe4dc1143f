"""`motivnet serve`: the predictor behind HTTP, and a page that uses it."""

import os
from pathlib import Path
from typing import Annotated

import typer

from motivnet.cli.load import load_predictor
from motivnet.cli.options import (
    AbstainBelow,
    BatchSize,
    Detector,
    Device,
    Dtype,
    Geometry,
    Model,
    NumHeads,
    Size,
    Workers,
)
from motivnet.errors import ConfigError
from motivnet.server.settings import ServerSettings

TOKEN_VARIABLE = "MOTIVNET_TOKEN"
LOG_LEVELS = ("debug", "info", "warning", "error")
_DEFAULT = ServerSettings()


def serve(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen at; 0 takes any that is free.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 for all, which needs a token.")
    ] = "127.0.0.1",
    model: Model = "nano",
    detector: Detector = "libfacedetection",
    token_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"Environment variable with the token [default: {TOKEN_VARIABLE}, if set]."),
    ] = None,
    token_file: Annotated[Path | None, typer.Option(metavar="FILE", help="File with the token.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Serve other machines without a token.")] = False,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch images from public hosts for clients.")
    ] = _DEFAULT.allow_urls,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Let pages of https://lab.example call the server; may be repeated."),
    ] = None,
    batch_images: Annotated[
        int, typer.Option(help="Images that are enough for a batch; 1 predicts each request by itself.")
    ] = _DEFAULT.batch_images,
    batch_wait_ms: Annotated[
        float, typer.Option(help="Wait at most so long for requests that are on their way.")
    ] = _DEFAULT.batch_wait_ms,
    max_queue_images: Annotated[
        int, typer.Option(help="Images that wait for the model; beyond, 429.")
    ] = _DEFAULT.max_queue_images,
    max_requests: Annotated[int, typer.Option(help="Requests at once; beyond, 429.")] = _DEFAULT.max_requests,
    max_held_bytes: Annotated[
        int, typer.Option(help="Bytes of bodies in memory at once; beyond, 429.")
    ] = _DEFAULT.max_held_bytes,
    max_connections: Annotated[int, typer.Option(help="Connections at once; beyond, 503.")] = _DEFAULT.max_connections,
    max_request_bytes: Annotated[int, typer.Option(help="Bytes of a body; beyond, 413.")] = _DEFAULT.max_request_bytes,
    max_images: Annotated[int, typer.Option(help="Images of a request; beyond, 413.")] = _DEFAULT.max_images,
    max_image_bytes: Annotated[
        int, typer.Option(help="Bytes of an image; a larger one is unreadable.")
    ] = _DEFAULT.max_image_bytes,
    max_pixels: Annotated[
        int, typer.Option(help="Pixels of an image; a larger one is unreadable.")
    ] = _DEFAULT.max_pixels,
    header_timeout_s: Annotated[
        float, typer.Option(help="Seconds for the head of a request.")
    ] = _DEFAULT.header_timeout_s,
    body_timeout_s: Annotated[float, typer.Option(help="Seconds for a body; then 408.")] = _DEFAULT.body_timeout_s,
    predict_timeout_s: Annotated[
        float, typer.Option(help="Seconds for an answer; then 504.")
    ] = _DEFAULT.predict_timeout_s,
    fetch_timeout_s: Annotated[
        float, typer.Option(help="Seconds to fetch the image of a URL.")
    ] = _DEFAULT.fetch_timeout_s,
    shutdown_timeout_s: Annotated[
        int, typer.Option(help="Seconds for accepted requests at the end.")
    ] = _DEFAULT.shutdown_timeout_s,
    retry_after_s: Annotated[
        int, typer.Option(help="Seconds after which a client with a 429 is asked to come again.")
    ] = _DEFAULT.retry_after_s,
    abstain_below: AbstainBelow = None,
    batch_size: BatchSize = 64,
    workers: Workers = 2,
    threads: Annotated[
        int | None, typer.Option(min=1, show_default="one a core", help="CPU threads of the model.")
    ] = None,
    backend: Annotated[str, typer.Option(help="onnx, torch, or auto.")] = "auto",
    device: Device = "auto",
    dtype: Dtype = "auto",
    size: Size = None,
    geometry: Geometry = None,
    num_heads: NumHeads = None,
    log_level: Annotated[str, typer.Option(help=f"Of the log on stderr: {', '.join(LOG_LEVELS)}.")] = "info",
) -> None:
    """Answer over HTTP with the emotions of the faces in photographs, and serve a page (needs the extra `serve`).

    Until SIGTERM or Ctrl-C, when accepted requests are finished. The page is at /, the routes are in /openapi.json.
    """
    from motivnet.cli.extras import needs_extra

    settings = ServerSettings(
        max_image_bytes=max_image_bytes,
        max_pixels=max_pixels,
        max_images=max_images,
        max_request_bytes=max_request_bytes,
        max_connections=max_connections,
        max_requests=max_requests,
        max_held_bytes=max_held_bytes,
        max_queue_images=max_queue_images,
        batch_images=batch_images,
        batch_wait_ms=batch_wait_ms,
        header_timeout_s=header_timeout_s,
        body_timeout_s=body_timeout_s,
        predict_timeout_s=predict_timeout_s,
        fetch_timeout_s=fetch_timeout_s,
        shutdown_timeout_s=shutdown_timeout_s,
        retry_after_s=retry_after_s,
        allow_urls=allow_urls,
        token=_read_token(token_env, token_file),
        cors_origins=tuple(cors_origin or ()),
    )
    if log_level not in LOG_LEVELS:
        raise ConfigError(f"log level {log_level!r}. Allowed: {', '.join(LOG_LEVELS)}")
    with needs_extra("fastapi", "serve"):
        from motivnet.server.app import create_app
        from motivnet.server.run import bind, check_exposure, run
    check_exposure(host, settings, insecure=insecure)
    with bind(host, port) as sock:
        from motivnet.server.attention import find_attention
        from motivnet.server.logs import log_to_stderr

        predictor = load_predictor(
            model,
            detector=detector,
            batch_size=batch_size,
            workers=workers,
            abstain_below=abstain_below,
            backend=backend,
            device=device,
            dtype=dtype,
            size=size,
            geometry=geometry,
            num_heads=num_heads,
            threads=threads,
        )
        log_to_stderr(log_level)
        run(create_app(predictor, settings, attention=find_attention(predictor, model)), settings, sock)


def _read_token(variable: str | None, file: Path | None) -> str | None:
    """Find the token where it is kept; never in the command itself, which every user of the machine can read."""
    if variable is not None and file is not None:
        raise ConfigError("--token-env and --token-file: allowed is one of them")
    if file is not None:
        try:
            return file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or 'no text'}") from None
    token = os.environ.get(variable or TOKEN_VARIABLE)
    if token is None and variable is not None:
        raise ConfigError(f"--token-env {variable}: there is no such environment variable")
    return token

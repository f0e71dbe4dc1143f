"""`motivnet serve`: the predictor behind HTTP, and a page that uses it."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import typer

from motivnet.cli.options import Model, flag, option
from motivnet.errors import ConfigError, needs_extra
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.server.settings import ServerSettings

TOKEN_VARIABLE = "MOTIVNET_TOKEN"
LOG_LEVELS = ("debug", "info", "warning", "error")


def serve(
    port: Annotated[int, typer.Option(min=0, max=65_535)] = 8000,
    host: str = "127.0.0.1",
    model: Model = "nano",
    token_env: Annotated[str | None, option("NAME", show_default=f"{TOKEN_VARIABLE}, if set")] = None,
    token_file: Annotated[Path | None, option("FILE")] = None,
    insecure: Annotated[bool, flag("--insecure")] = False,
    log_level: Annotated[str, typer.Option(help=f"Of the log on stderr: {', '.join(LOG_LEVELS)}.")] = "info",
    *,
    settings: ServerSettings,
    predictor: PredictorConfig,
) -> None:
    """Recognise the emotions of faces in photographs over HTTP, and serve a page (needs the extra `serve`).

    SIGTERM or Ctrl-C ends it, after accepted requests are finished. The page is at /, the routes are in /openapi.json,
    and can be tried at /docs.

    Example: motivnet serve --port 8000

    Options:
        port: Port to listen on; 0 takes any that is free.
        host: Address to listen on; 0.0.0.0 for all, which needs a token.
        token_env: Environment variable of the token.
        token_file: File with the token.
        insecure: Serve other machines without a token.
    """
    settings = dataclasses.replace(settings, token=_read_token(token_env, token_file))
    if log_level not in LOG_LEVELS:
        raise ConfigError(f"log level {log_level!r}. Allowed: {', '.join(LOG_LEVELS)}")
    with needs_extra("fastapi", "serve"):
        from motivnet.server.app import create_app
        from motivnet.server.run import bind, check_exposure, run
    check_exposure(host, settings, insecure=insecure)
    with bind(host, port) as sock:
        from motivnet.inference.predictor import Predictor
        from motivnet.machine import prepare_for_images
        from motivnet.server.attention import find_attention
        from motivnet.server.telemetry import log_to_stderr, take_over_stderr

        prepare_for_images()
        loaded = Predictor.load(model, predictor)
        log_to_stderr(log_level, take_over_stderr())
        run(create_app(loaded, settings, attention=find_attention(loaded, model)), settings, sock)


def _read_token(variable: str | None, file: Path | None) -> str | None:
    """Read the token from a file or variable; never from the command line, which other users of the machine can see."""
    if variable is not None and file is not None:
        raise ConfigError("--token-env and --token-file: give only one of them")
    if file is not None:
        try:
            return file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or 'no text'}") from None
    token = os.environ.get(variable or TOKEN_VARIABLE)
    if token is None and variable is not None:
        raise ConfigError(f"--token-env {variable}: there is no such environment variable")
    return token

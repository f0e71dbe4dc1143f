"""The predictor behind HTTP: `app.create_app` makes the application, `run.run` serves it.

A request goes through, in this order:

1. `protocol`: its head must come in time, and be of a reasonable size.
2. `metrics.Telemetry`: an id, one line of log, latency. Never image data.
3. `limits`: token, number of requests at once, bytes, images; the body is read in memory, against the clock.
4. `batching.Batcher`: a bounded queue from which one thread predicts the images of several requests at once.
5. `schemas`: the answer, whose entries are the objects of `motivnet predict --json`.

All but the prediction itself happens on the event loop, so nothing here needs a lock. The names are imported on demand,
so that the settings can be read without FastAPI.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from motivnet.server.app import create_app
    from motivnet.server.settings import ServerSettings

__all__ = ["ServerSettings", "create_app"]


def __getattr__(name: str) -> Any:
    if name == "create_app":
        from motivnet.server.app import create_app

        return create_app
    if name == "ServerSettings":
        from motivnet.server.settings import ServerSettings

        return ServerSettings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

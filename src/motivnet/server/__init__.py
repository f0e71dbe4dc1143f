"""The predictor behind HTTP: `app.create_app` creates the application, `run.run` serves it.

A request goes through, in this order:

1. `run`: its header must arrive in time, and bytes that are no body are counted before they are parsed.
2. `telemetry.Telemetry`: an id, one line of the log, latency. Never image data.
3. `access` and `limits`: host, origin, token, number of requests at once, bytes, images; the body is read in memory,
   with a time limit.
4. `decoding.Decoders`: unusual images are decoded in processes that can be killed.
5. `batching.Batcher`: a bounded queue from which one thread predicts the images of several requests at once.
6. `schemas`: the answer, with the objects of `motivnet predict --json`.

All but the prediction itself happens on the event loop, so nothing here needs a lock.
"""

from typing import TYPE_CHECKING, Any

from motivnet.server.settings import ServerSettings

if TYPE_CHECKING:
    from motivnet.server.app import create_app

__all__ = ["ServerSettings", "create_app"]


def __getattr__(name: str) -> Any:
    # On demand, so that the settings can be read without FastAPI.
    if name != "create_app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from motivnet.server.app import create_app

    return create_app

"""A real Chromium before a real server. Skipped where there is none; $MOTIVNET_CHROMIUM names one that is elsewhere."""

import asyncio
import contextlib
import io
import os
import shutil
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from motivnet.inference.predictor import Predictor
from motivnet.labels import EU_NOTICE

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TOKEN = "s3cret"
SMALL_BYTES = 200_000
# Generous, as machines that test may be slow: nothing waits so long that goes well.
PATIENCE_MS = 120_000


class Spots:
    """Stands for `motivnet.server.attention.Attention`, which needs torch: hot in the upper left of a face."""

    def load(self) -> None:
        pass

    def of(self, image_hwc_u8: np.ndarray, face: Any) -> dict[str, Any]:
        return {
            "emotion": face.emotion,
            "seen": [round(value) for value in face.box],
            "rows": 2,
            "columns": 2,
            "values": [[1.0, 0.0], [0.0, 0.0]],
        }


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's path."""
    wanted = os.environ.get("MOTIVNET_CHROMIUM")
    found = wanted or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        pytest.skip("no Chromium is here: install it, or name it in $MOTIVNET_CHROMIUM")
    return found


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The server's address; below it also `below/a/path/` (heat maps), `locked/` (token), `small/` (small bodies)."""
    uvicorn = pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")
    pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
    from starlette.applications import Starlette
    from starlette.routing import Mount

    from motivnet.server.app import create_app
    from motivnet.server.settings import ServerSettings

    predictor = Predictor.load("nano", threads=1)
    apps = {
        "/below/a/path": create_app(predictor, ServerSettings(notice=EU_NOTICE), attention=Spots()),  # pyright: ignore[reportArgumentType]
        "/locked": create_app(predictor, ServerSettings(token=TOKEN)),
        "/small": create_app(
            predictor, ServerSettings(max_request_bytes=SMALL_BYTES, max_video_bytes=SMALL_BYTES, max_video_s=1.0)
        ),
        "/": create_app(predictor),
    }

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for app in apps.values():
                await stack.enter_async_context(app.router.lifespan_context(app))
            yield

    outer = Starlette(routes=[Mount(path, app) for path, app in apps.items()], lifespan=lifespan)
    server = uvicorn.Server(uvicorn.Config(outer, log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def browser(chromium: str, camera_file: Path) -> Iterator[Any]:
    """Chromium, with a file for a camera."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    sync_api.expect.set_options(timeout=PATIENCE_MS)
    arguments = [
        *("--no-sandbox", "--disable-gpu", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
        f"--use-file-for-fake-video-capture={camera_file}",
    ]
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield running
        running.close()


@pytest.fixture(scope="session")
def camera_file(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> Path:
    """What the camera sees: the astronaut, in the middle of 640 x 480."""
    scene = Image.new("RGB", (640, 480), (90, 96, 104))
    scene.paste(Image.fromarray(astronaut).resize((480, 480)), (80, 0))
    file = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    file.write_bytes(encoded(np.asarray(scene), "JPEG") * 2)
    return file


@pytest.fixture
def visit(browser: Any, site: str) -> Iterator[Callable[..., Any]]:
    """Open the page; at the end nothing may have gone to another host, and no script failed or was refused."""
    with contextlib.ExitStack() as stack:
        seen: list[str] = []

        def listen(message: Any) -> None:
            # The browser's own remarks: on an answer other than 200, and on the tests' look at pixels.
            known = ("Failed to load resource", "Multiple readback operations")
            if message.type in ("error", "warning") and not any(remark in message.text for remark in known):
                seen.append(message.text)

        def check(request: Any) -> None:
            address = urlsplit(request.url)
            if address.scheme not in ("blob", "data") and not request.url.startswith(site):
                seen.append(f"request to {request.url}")

        def open_page(
            path: str = "",
            *,
            before: Callable[[Any], None] = lambda page: None,
            # It knows the model, or that it has to ask.
            wait_for: str = "#model:not(:empty), #token-form:not([hidden])",
            **options: Any,
        ) -> Any:
            context = stack.enter_context(browser.new_context(**({"permissions": ["camera"]} | options)))
            context.set_default_timeout(PATIENCE_MS)
            page = context.new_page()
            page.on("console", listen)
            page.on("pageerror", lambda error: seen.append(str(error)))
            page.on("request", check)
            before(page)
            page.goto(site + path)
            page.wait_for_selector(wait_for, state="attached")
            return page

        yield open_page
    assert seen == []


def encoded(image_hwc_u8: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_hwc_u8).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def face(astronaut: np.ndarray) -> dict[str, Any]:
    """One face, as a file for the page."""
    return {"name": "astronaut.jpg", "mimeType": "image/jpeg", "buffer": encoded(astronaut, "JPEG", quality=90)}


@pytest.fixture(scope="session")
def two_faces(astronaut: np.ndarray, grace_hopper: np.ndarray) -> dict[str, Any]:
    """Two people side by side; the first found is the larger: on the right."""
    other = np.asarray(Image.fromarray(grace_hopper).resize((433, 512)))
    both = encoded(np.hstack([astronaut, other]), "JPEG", quality=90)
    return {"name": "two.jpg", "mimeType": "image/jpeg", "buffer": both}


@pytest.fixture(scope="session")
def no_face() -> dict[str, Any]:
    """A good image without a face."""
    grey = encoded(np.full((200, 300, 3), 90, np.uint8))
    return {"name": "grey.png", "mimeType": "image/png", "buffer": grey}


@pytest.fixture(scope="session")
def no_image() -> dict[str, Any]:
    """No image, whatever its name says."""
    return {"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": b"not an image"}

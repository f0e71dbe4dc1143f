"""Videos over HTTP: the rows of `motivnet video`, within limits, one at a time."""

import asyncio
import contextlib
import io
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av", reason="the extra 'serve' is not installed")
pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

import av

from motivnet import child_process
from motivnet.frames.selection import Selection
from motivnet.images import NamedImage
from motivnet.inference.predictor import Predictor
from motivnet.server import ServerSettings, create_app
from motivnet.server.schemas import VideoAnswer
from motivnet.server.videos import Videos
from motivnet.video.label import label_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> Path:
    """Two seconds, 20 frames: grey, then a face that goes to the right."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 256, 320, "yuv420p"
        for number in range(20):
            image = np.full((256, 320, 3), 90, np.uint8)
            if number >= 4:
                image[:, 2 * number : 2 * number + 256] = astronaut[::2, ::2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@contextlib.asynccontextmanager
async def serving(predictor, **settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(predictor, ServerSettings(**settings))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield client


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def ask(predictor, method: str, path: str, *, settings=None, **request) -> httpx.Response:
    async def go() -> httpx.Response:
        async with serving(predictor, **(settings or {})) as client:
            return await client.request(method, path, **request)

    return asyncio.run(go())


def form(*files: tuple[str, bytes]) -> list:
    return [("files", file) for file in files]


def flat() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 20, 3), 90, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def predictor(tiny_bundle) -> Predictor:
    return Predictor.load(tiny_bundle.path)


def send(predictor, name: str, data: bytes, **settings):
    return ask(predictor, "POST", "/v1/video", files=form((name, data)), settings=settings)


class TestAnswers:
    def test_rows_are_those_of_the_command(self, predictor, tiny_bundle, clip):
        got = send(predictor, "=clip.mp4", clip.read_bytes(), video_fps=5.0)
        assert got.status_code == 200
        (result,) = VideoAnswer.model_validate(got.json()).results
        (wanted,) = label_video(clip, model=tiny_bundle.path, selection=Selection(fps=5.0))
        assert wanted.rows is not None
        assert len(wanted.rows) == 10
        assert result.rows == [row | {"source": "=clip.mp4"} for row in wanted.rows]
        assert {row["status"] for row in result.rows} == {"ok", "no_face"}
        assert (result.source, result.notes) == ("=clip.mp4", [])

    def test_what_is_no_video_has_a_row_that_says_so(self, predictor, clip):
        for data in (b"not a video", b"", flat(), clip.read_bytes()[:900]):
            got = send(predictor, "a.mp4", data)
            assert got.status_code == 200
            (row,) = got.json()["results"][0]["rows"]
            assert (row["source"], row["status"], row["face"]) == ("a.mp4", "unreadable", None)
            assert row["error"]
            assert "/dev/fd" not in row["error"]

    def test_notes_say_what_is_special(self, predictor, tmp_path):
        path = tmp_path / "wide.avi"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            stream.codec_context.sample_aspect_ratio = Fraction(2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
            container.mux(stream.encode())
        (result,) = send(predictor, "a.avi", path.read_bytes()).json()["results"]
        assert result["notes"] == ["pixels of 2:1 were made square"]
        assert [row["image_width"] for row in result["rows"]] == [128]

    def test_no_named_file_is_written(self, predictor, clip, monkeypatch, tmp_path):
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr(tempfile, "tempdir", None)
        assert send(predictor, "a.mp4", clip.read_bytes()).json()["results"][0]["rows"]
        assert list(tmp_path.iterdir()) == []


class TestLimits:
    @pytest.mark.parametrize(
        ("settings", "error"),
        [
            ({"max_video_s": 1.0}, "lasts 2 s or more, the limit is 1 s"),
            ({"max_video_pixels": 1000}, "frames of 320 x 256 pixels, the limit is 1000 in all"),
        ],
    )
    def test_beyond_them_it_is_unreadable(self, predictor, clip, settings, error):
        (row,) = send(predictor, "a.mp4", clip.read_bytes(), **settings).json()["results"][0]["rows"]
        assert (row["status"], row["error"]) == ("unreadable", error)

    def test_bytes_and_number(self, predictor, clip):
        data = clip.read_bytes()
        assert send(predictor, "a.mp4", data, max_video_bytes=1000).status_code == 413
        # Those of images are others.
        assert send(predictor, "a.mp4", data, max_request_bytes=1000).status_code == 200
        two = ask(predictor, "POST", "/v1/video", files=form(("a", data), ("b", data)))
        assert two.status_code == 413

    def test_token(self, predictor):
        assert send(predictor, "a.mp4", b"", token="s3cret").status_code == 401
        with_it = ask(
            predictor,
            "POST",
            "/v1/video",
            files=form(("a", b"")),
            headers={"Authorization": "Bearer s3cret"},
            settings={"token": "s3cret"},
        )
        assert with_it.status_code == 200

    def test_the_model_states_them(self, predictor):
        settings = {"max_video_s": 30.0, "max_video_bytes": 5_000_000, "max_video_pixels": 100, "video_fps": 4.0}
        (model,) = ask(predictor, "GET", "/v1/models", settings=settings).json()["models"]
        assert model["video"] == settings


class Slow:
    """A detector that waits until it is let."""

    name = "slow"

    def __init__(self, real) -> None:
        self.real, self.let, self.began = real, threading.Event(), threading.Event()

    def detect(self, image_hwc_u8):
        self.began.set()
        assert self.let.wait(60)
        return self.real.detect(image_hwc_u8)


class TestTurns:
    def test_images_are_answered_meanwhile_and_videos_wait(self, predictor, clip, monkeypatch):
        made: list[Videos] = []
        monkeypatch.setattr("motivnet.server.service.Videos", lambda *given: made.append(Videos(*given)) or made[-1])
        data, slow = clip.read_bytes(), Slow(predictor.detector)

        async def go():
            async with serving(predictor, max_videos=2) as client:
                (videos,) = made
                videos._predictor.detector = slow
                first = asyncio.create_task(client.post("/v1/video", files=form(("a", data))))
                await until(slow.began.is_set)
                image = await client.post("/v1/predict", files=form(("b", flat())))
                second = asyncio.create_task(client.post("/v1/video", files=form(("a", data))))
                await until(lambda: videos._number == 2)
                third = await client.post("/v1/video", files=form(("c", data)))
                slow.let.set()
                return image, third, await first, await second

        image, third, *both = asyncio.run(go())
        assert image.json()["results"][0]["status"] == "no_face"
        assert (third.status_code, third.headers["Retry-After"]) == (429, "1")
        assert [answer.status_code for answer in both] == [200, 200]
        assert both[0].json() == both[1].json()

    def test_the_deadline_ends_a_decoder_that_never_answers(self, predictor, clip, monkeypatch):
        processes: list[subprocess.Popen[bytes]] = []
        start = child_process.start

        def hang(module: str) -> "subprocess.Popen[bytes]":
            if not processes:
                sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
                processes.append(subprocess.Popen(sleep, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
                return processes[0]
            return start(module)

        def timeout(seconds: float) -> asyncio.Timeout:
            # All of it is over while the first decoder runs; neither the body nor the second one is hurried.
            return real(0 if processes and processes[0].poll() is None else seconds)

        async def go():
            async with serving(predictor, video_timeout_s=600.0) as client:
                monkeypatch.setattr(asyncio, "timeout", timeout)
                late = await client.post("/v1/video", files=form(("a", data)))
                return late, await client.post("/v1/video", files=form(("a", data)))

        real, data = asyncio.timeout, clip.read_bytes()
        monkeypatch.setattr(child_process, "start", hang)
        late, good = asyncio.run(go())
        assert (late.status_code, late.json()) == (504, {"detail": "the video took longer than 600 s"})
        assert processes[0].poll() is not None
        assert len(good.json()["results"][0]["rows"]) == 20

    def test_a_client_that_leaves_ends_it(self, predictor, clip, monkeypatch):
        made: list[Videos] = []
        monkeypatch.setattr("motivnet.server.service.Videos", lambda *given: made.append(Videos(*given)) or made[-1])
        slow = Slow(predictor.detector)

        async def go():
            async with serving(predictor):
                (videos,) = made
                videos._predictor.detector = slow
                task = asyncio.create_task(videos.label(NamedImage("a", clip.read_bytes())))
                await until(slow.began.is_set)
                task.cancel()
                slow.let.set()
                with pytest.raises(asyncio.CancelledError):
                    await task
                return videos._number, videos._turn.locked()

        assert asyncio.run(go()) == (0, False)

    def test_a_decoder_that_crashes(self, predictor, clip, monkeypatch):
        start = child_process.start

        def crash(module: str) -> "subprocess.Popen[bytes]":
            process = start(module)
            process.kill()
            return process

        monkeypatch.setattr(child_process, "start", crash)
        (row,) = send(predictor, "a.mp4", clip.read_bytes()).json()["results"][0]["rows"]
        assert row["error"] == "damaged video: the decoder crashed"

"""`motivnet live` as a user runs it, with files as cameras."""

import os
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import click.testing
import numpy as np
import pytest
import typer.testing

from motivnet.cli.main import app
from motivnet.errors import MotivNetError
from motivnet.labels import EU_NOTICE

av = pytest.importorskip("av")


def run(*arguments: object) -> click.testing.Result:
    return typer.testing.CliRunner().invoke(app, ["live", *map(str, arguments)])


def refused(*arguments: object) -> str:
    done = run(*arguments)
    assert isinstance(done.exception, MotivNetError), done.output
    return str(done.exception)


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second of 25 frames per second."""
    return draw(tmp_path_factory.mktemp("film") / "film.mp4", 12)


def draw(path: Path, frames: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 240, 320, "yuv420p"
        for number in range(frames):
            image = np.full((240, 320, 3), 100, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def options(tiny_bundle) -> list[object]:
    return ["--model", tiny_bundle.path, "--detector", "whole", "--headless"]


def read(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_headless_writes_what_it_sees(film, options, tmp_path):
    out = tmp_path / "out.mp4"
    done = run("--camera", film, "--out", out, *options)
    assert (done.exit_code, done.stdout) == (0, ""), done.output
    told = re.fullmatch(
        r"(\d+) frames in [\d.]+ s( \([\d.]+ per second\))?; latency \d+ ms, 95 % below \d+ ms; "
        r"(\d+) of 12 frames dropped; written to (.*)\n",
        done.stderr,
    )
    assert told, done.stderr
    frames = read(out)
    assert len(frames) == int(told[1]) == 12 - int(told[3])
    assert frames[0].shape == (240, 320, 3)
    # The note in the corner, and a plate on the face.
    assert frames[0][:12, :40].mean() < 80
    assert list(tmp_path.iterdir()) == [out]


def test_frames_are_dropped_rather_than_late(film, options, tmp_path, monkeypatch):
    from motivnet.faces.detector import WholeImage
    from motivnet.video import camera

    cameras, find = [], WholeImage.detect

    class Noted(camera.LiveFrames):
        def __init__(self, name: str) -> None:
            cameras.append(self)
            super().__init__(name)

    def detect(self, image):
        (frames,) = cameras
        with frames._ready:
            assert frames._ready.wait_for(lambda: frames._ended, 300)
        return find(self, image)

    monkeypatch.setattr(camera, "LiveFrames", Noted)
    monkeypatch.setattr(WholeImage, "detect", detect)
    done = run("--camera", film, "--out", tmp_path / "out.mp4", *options)
    # While a frame was searched, all others came: of those only the last was still of interest.
    assert re.match("(1|2) frames in .*; 1[01] of 12 frames dropped", done.stderr)
    assert int(done.stderr[0]) + int(re.findall(r"(\d+) of 12 frames dropped", done.stderr)[0]) == 12


def test_it_stops_after_some_time(film, options, tmp_path):
    done = run("--camera", film, "--out", tmp_path / "out.mp4", "--seconds", 0, *options)
    assert done.exit_code == 0
    assert len(read(tmp_path / "out.mp4")) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_finishes_the_film(tiny_bundle, tmp_path, number):
    camera, out = draw(tmp_path / "long.mp4", 25 * 60), tmp_path / "out.mp4"
    # A shell starts its background jobs deaf to SIGINT, and these tests may run in one.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from motivnet.cli.main import main; main()"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "live",
        "--camera",
        camera,
        "--out",
        out,
        "--headless",
        "--detector",
        "whole",
    ]
    with subprocess.Popen(
        [*map(str, command), "--model", str(tiny_bundle.path)], stderr=subprocess.PIPE, text=True
    ) as process:
        while not list(tmp_path.glob(".out.mp4*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    if out.exists():
        assert read(out)
        assert "written to" in told
    assert {path.name for path in tmp_path.iterdir()} <= {"long.mp4", "out.mp4"}


class FakeWindow:
    """Is closed by somebody after the third picture."""

    shown: list[np.ndarray]
    notice: str | None

    def __init__(self, title: str, notice: str | None) -> None:
        FakeWindow.shown, FakeWindow.notice = [], notice

    def show(self, image_hwc_u8: np.ndarray) -> bool:
        self.shown.append(image_hwc_u8)
        return len(self.shown) < 3

    def close(self) -> None: ...


def test_the_window_shows_it_until_it_is_closed(film, options, monkeypatch):
    monkeypatch.setattr("motivnet.cli.live.Window", FakeWindow)
    done = run("--camera", film, *options[:-1], "--notice", "eu")
    assert done.exit_code == 0, done.output
    assert FakeWindow.notice == EU_NOTICE
    assert len(FakeWindow.shown) == 3
    assert done.stderr.startswith("3 frames in")


def test_without_a_screen_it_says_what_to_do(film, options, monkeypatch):
    pytest.importorskip("tkinter")
    monkeypatch.delenv("DISPLAY", raising=False)
    if sys.platform in ("win32", "darwin"):
        pytest.skip("there is a screen")
    assert "Allowed: --headless with --out FILE.mp4" in refused("--camera", film, *options[:-1])


def test_cameras_that_are_not_there(options, tmp_path):
    out = tmp_path / "out.mp4"
    for camera, says in (
        ("97", "camera 97: cannot be opened"),
        (tmp_path / "none.mp4", "no such file or device"),
        ("rtsp://user:secret@127.0.0.1:9/stream", "camera rtsp://127.0.0.1:9/stream: cannot be opened"),
    ):
        done = run("--camera", camera, "--out", out, *options)
        assert done.exit_code == 1
        assert says in done.stderr
        assert "Allowed: the number of a connected camera" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert "secret" not in done.output
    (tmp_path / "text.mp4").write_text("no video")
    done = run("--camera", tmp_path / "text.mp4", "--out", out, *options)
    assert (done.exit_code, "not a video" in done.stderr) == (1, True)
    assert not out.exists()


def test_mistakes_in_the_command(film, options, tmp_path):
    assert "Allowed: together with --out FILE.mp4" in refused("--camera", film, *options)
    assert "unknown format '.avi'" in refused("--camera", film, "--out", tmp_path / "a.avi", *options)
    (tmp_path / "a.mp4").touch()
    assert "exists already" in refused("--camera", film, "--out", tmp_path / "a.mp4", *options)

"""Inputs beyond files and arrays: URLs, named images, frames of videos, cameras."""

import importlib.util
import math
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from motivnet import remote
from motivnet.errors import ConfigError, ImageError, MissingExtraError
from motivnet.images import NamedImage
from motivnet.inference import predictor
from motivnet.inference.predictor import Predictor
from motivnet.remote import FetchLimits
from motivnet.video import camera
from motivnet.video.camera import read_camera, take_picture
from motivnet.video.sources import frames_of, is_video

BRIGHT, DARK = np.full((48, 64, 3), 255, np.uint8), np.zeros((48, 64, 3), np.uint8)


@pytest.fixture
def whole(tiny_bundle) -> Predictor:
    return Predictor.load(tiny_bundle.path, detector="whole")


@pytest.fixture
def png(tmp_path: Path) -> bytes:
    Image.fromarray(BRIGHT).save(tmp_path / "bright.png")
    return (tmp_path / "bright.png").read_bytes()


@pytest.fixture
def clip(tmp_path: Path) -> Callable[..., Path]:
    """Draw a motion-JPEG video at 10 frames per second, frame k of brightness 10 k."""
    cv2 = pytest.importorskip("cv2")

    def draw(number: int = 25, name: str = "clip.avi") -> Path:
        path = tmp_path / name
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
        for position in range(number):
            # Blue, red and green differ, so that a wrong order would show.
            writer.write(np.full((48, 64, 3), (10 * position, 0, 250), np.uint8))
        writer.release()
        return path

    return draw


class TestUrls:
    def test_urls_are_fetched_within_the_limits(self, tiny_bundle, png: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def fetch(url: str, limits: FetchLimits | None) -> bytes:
            asked.append((url, limits))
            if "bad" in url:
                raise ImageError("cannot be fetched: there is no host bad.test")
            return png

        monkeypatch.setattr(predictor, "fetch", fetch)
        limits = FetchLimits(public_only=True)
        reader = Predictor.load(tiny_bundle.path, detector="whole", fetch_limits=limits, workers=1)
        good, bad, last = reader.predict(["https://me:secret@x.test/a.png?b", "http://bad.test/", "HTTP://x.test/"])
        assert asked == [
            (url, limits) for url in ("https://me:secret@x.test/a.png?b", "http://bad.test/", "HTTP://x.test/")
        ]
        assert (good.source, good.faces[0].emotion) == ("https://x.test/a.png?b", "happiness")
        assert (bad.source, bad.status) == ("http://bad.test/", "unreadable")
        assert bad.error == "cannot be fetched: there is no host bad.test"
        assert last.status == "ok"
        np.testing.assert_array_equal(good.picture(), BRIGHT)

    def test_one_url_alone_is_one_input(self, whole: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(remote.socket, "getaddrinfo", lambda *_, **__: [])
        (only,) = whole.predict("http://nowhere.test/a.jpg")
        assert (only.status, "nowhere.test" in str(only.error)) == ("unreadable", True)

    def test_a_path_object_is_a_path_whatever_it_looks_like(self, whole: Predictor) -> None:
        (only,) = whole.predict(Path("http://nowhere.test/a.jpg"))
        assert only.error == "no such file"


def test_data_urls_are_images_and_named_by_position(whole: Predictor, png: bytes) -> None:
    url = f"data:image/png;base64,{b64encode(png).decode()}"
    good, bad = whole.predict([url, "data:image/png;base64,****"])
    assert (good.source, good.faces[0].emotion) == ("<data URL 0>", "happiness")
    assert (bad.source, bad.status) == ("<data URL 1>", "unreadable")
    assert whole.predict(url)[0].faces == good.faces


def test_a_tensor_is_one_image(whole: Predictor) -> None:
    torch = pytest.importorskip("torch")
    image = torch.from_numpy(BRIGHT).permute(2, 0, 1)
    (only,) = whole.predict(image)
    assert (only.source, only.width, only.height) == ("<tensor 0>", 64, 48)
    assert only.faces[0].emotion == "happiness"
    (batch,) = whole.predict(image[None])
    assert batch.status == "unreadable"
    assert "list(batch)" in str(batch.error)
    assert [each.status for each in whole.predict(list(torch.stack([image, image])))] == ["ok", "ok"]


def test_named_images_carry_their_names_and_their_errors(whole: Predictor) -> None:
    (good, bad) = whole.predict([NamedImage("x", BRIGHT), NamedImage("y", ImageError("out of film"))])
    assert (good.source, good.status) == ("x", "ok")
    assert (bad.source, bad.status, bad.error) == ("y", "unreadable", "out of film")
    assert whole.predict(NamedImage("z", DARK))[0].source == "z"


class TestFrames:
    @pytest.fixture(autouse=True)
    def needs_av(self) -> None:
        pytest.importorskip("av")

    def test_frames_come_at_even_times_named_by_them(self, whole: Predictor, clip: Callable[..., Path]) -> None:
        path = clip()
        results = list(whole.stream(frames_of(path)))
        assert [each.source for each in results] == [f"{path}@{time_s}.000s" for time_s in (0, 1, 2)]
        assert {each.status for each in results} == {"ok"}
        assert len(list(frames_of(path, every_s=0.5))) == 5

    def test_a_broken_video_is_one_unreadable_input_among_others(self, whole: Predictor, tmp_path: Path) -> None:
        text = tmp_path / "text.mp4"
        text.write_text("I am no video\n" * 100)
        results = whole.predict([*frames_of(text), *frames_of(tmp_path / "missing.mp4"), DARK])
        assert [(each.source, each.status) for each in results] == [
            (str(text), "unreadable"),
            (str(tmp_path / "missing.mp4"), "unreadable"),
            ("<array 2>", "ok"),
        ]
        assert not str(results[0].error).startswith(str(tmp_path))
        assert results[1].error == "no such file"

    @pytest.mark.parametrize("every_s", [0, -1, math.inf, math.nan])
    def test_times_that_are_none(self, every_s: float) -> None:
        with pytest.raises(ConfigError, match="must be positive and finite"):
            frames_of("clip.mp4", every_s=every_s)


def test_without_pyav_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"motivnet\[video\]"):
        frames_of("clip.mp4")


@pytest.mark.parametrize(("name", "answer"), [("a.mp4", True), ("A.MOV", True), ("a.gif", False), ("mp4", False)])
def test_videos_are_known_by_their_names(name: str, answer: bool) -> None:
    assert is_video(name) is answer


class TestCamera:
    """With a file as the camera."""

    def test_pictures_are_rgb(self, clip: Callable[..., Path]) -> None:
        pictures = list(read_camera(str(clip(3))))
        assert [picture.shape for picture in pictures] == [(48, 64, 3)] * 3
        np.testing.assert_allclose(pictures[2][0, 0], (250, 0, 20), atol=6)
        assert pictures[0].flags.c_contiguous

    def test_one_picture_is_taken_when_the_camera_has_settled(self, clip: Callable[..., Path]) -> None:
        assert int(take_picture(str(clip()))[0, 0, 2]) == pytest.approx(10 * camera.WARM_UP_PICTURES, abs=6)
        assert int(take_picture(str(clip(2)))[0, 0, 2]) == pytest.approx(10, abs=6)

    def test_a_camera_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match=r"not found. Allowed: the number of a camera that is connected"):
            take_picture(str(tmp_path / "video9"))

    def test_a_camera_that_gives_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cv2 = pytest.importorskip("cv2")
        released = []

        class Dead:
            def __init__(self, _: object) -> None: ...

            def isOpened(self) -> bool:
                return True

            def read(self) -> tuple[bool, None]:
                return False, None

            def release(self) -> None:
                released.append(True)

        monkeypatch.setattr(cv2, "VideoCapture", Dead)
        with pytest.raises(ImageError, match="gives no picture"):
            next(read_camera(0))
        assert released == [True]

"""Frames of videos and pictures of cameras as photographs."""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from motivnet.errors import ConfigError, ImageError, MissingExtraError
from motivnet.frames.reader import frames_of
from motivnet.frames.selection import is_video
from motivnet.inference.predictor import Predictor
from motivnet.video import camera
from motivnet.video.camera import read_camera, take_picture

DARK = np.zeros((48, 64, 3), np.uint8)


@pytest.fixture
def whole(tiny_bundle) -> Predictor:
    return Predictor.load(tiny_bundle.path, detector="whole")


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
    def test_times_out_of_range(self, every_s: float) -> None:
        with pytest.raises(ConfigError, match="must be positive and finite"):
            frames_of("clip.mp4", every_s=every_s)


def test_without_pyav_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
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
        with pytest.raises(ImageError, match=r"cannot be opened. Allowed: the number of a connected camera"):
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

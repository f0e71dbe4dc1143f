"""Clips: which frames of a video or a folder stand for the whole, and what is refused."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from motivnet.errors import ImageError
from motivnet.frames.clips import Clip, is_clip

Draw = Callable[..., Path]
# One frame every tenth of a second.
STAIRS = range(20, 220, 20)


def shown(frames: Sequence[np.ndarray]) -> list[int]:
    """Return the position in STAIRS of each frame, by its brightness."""
    return [round((frame.mean() - 20) / 20) for frame in frames]


@pytest.mark.parametrize(
    ("num_frames", "stretch", "expected"),
    [
        (1, {}, [5]),
        (2, {}, [2, 7]),
        (5, {}, [1, 3, 5, 7, 9]),
        (10, {}, list(range(10))),
        (2, {"start_s": 0.2, "end_s": 0.6}, [3, 5]),
        (4, {"start_s": 0.6}, [6, 7, 8, 9]),
        (3, {"start_s": 0.5, "end_s": 0.6}, [5, 5, 5]),
        (2, {"end_s": 0.4}, [1, 3]),
    ],
)
def test_frames_in_the_middle_of_equal_parts(
    draw_clip: Draw, tmp_path: Path, num_frames: int, stretch: dict[str, float], expected: list[int]
) -> None:
    path = draw_clip(tmp_path / "a.mp4", STAIRS)
    frames = Clip(str(path), **stretch).read(num_frames)
    assert frames[0].shape == (32, 32, 3)
    assert shown(frames) == expected


def test_a_clip_of_fewer_frames_repeats_them(draw_clip: Draw, tmp_path: Path) -> None:
    path = draw_clip(tmp_path / "a.mp4", STAIRS[:2])
    assert shown(Clip(str(path)).read(4)) == [0, 0, 1, 1]


def test_a_stated_end_beyond_the_file_repeats_the_last_frame(draw_clip: Draw, tmp_path: Path) -> None:
    path = draw_clip(tmp_path / "a.mp4", STAIRS)
    assert shown(Clip(str(path), 0.0, 2.0).read(4)) == [2, 7, 9, 9]


def test_a_folder_of_frames(tmp_path: Path) -> None:
    for number, brightness in enumerate(STAIRS):
        Image.new("RGB", (8, 6), (brightness,) * 3).save(tmp_path / f"{number:03}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    assert shown(Clip(str(tmp_path)).read(5)) == [1, 3, 5, 7, 9]
    assert shown(Clip(str(tmp_path)).read(1)) == [5]
    assert shown(Clip(str(tmp_path)).read(20)) == [number // 2 for number in range(20)]


@pytest.mark.parametrize(
    ("make", "clip", "message"),
    [
        (lambda path: None, {}, "no such file"),
        (lambda path: path.mkdir(), {}, r"a clip without frames\. Allowed: a video, or a folder of images"),
        (lambda path: path.write_bytes(b"none"), {}, "not a video in a format that can be read"),
        (None, {"start_s": 5.0}, r"no frame from 5 s to the end; the last one seen is at 0\.9 s"),
        (None, {"start_s": 1.0, "end_s": 1.5}, "no frame from 1 s to 1.5 s"),
        (None, {"start_s": 1.0, "end_s": 0.5}, "must be after the start"),
    ],
)
def test_a_clip_that_cannot_be_read(draw_clip, tmp_path, make, clip, message):
    path = tmp_path / "a.mp4"
    make(path) if make else draw_clip(path, STAIRS)
    with pytest.raises(ImageError, match=message):
        Clip(str(path), **clip).read(3)


def test_what_is_a_clip(tmp_path: Path) -> None:
    assert is_clip("a/b.MP4")
    assert is_clip(str(tmp_path))
    assert not is_clip("a/b.jpg")
    assert not is_clip("a/b")

"""Videos that are written are read again."""

from pathlib import Path

import numpy as np
import pytest

from motivnet.errors import ImageError, OutputError
from motivnet.frames.reader import Video
from motivnet.video.writer import encodable, write_video

pytest.importorskip("av")


def read(path: Path) -> list[tuple[float, np.ndarray]]:
    with Video(path) as video:
        return [(frame.time_s, frame.image_hwc_u8) for frame in video]


def test_times_and_colours_are_kept(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.15, 1.0, 3.5]
    colors = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (128, 128, 128), (240, 240, 20)]
    with write_video(tmp_path / "a.mp4") as write:
        for time_s, color in zip(times, colors, strict=True):
            write(encodable(np.full((48, 64, 3), color, np.uint8)), time_s)
    frames = read(tmp_path / "a.mp4")
    assert [time_s for time_s, _ in frames] == pytest.approx(times, abs=1e-4)
    for (_, image), color in zip(frames, colors, strict=True):
        assert image.mean(axis=(0, 1)) == pytest.approx(color, abs=4)


@pytest.mark.parametrize("size", [(49, 65), (1, 1), (48, 65)])
def test_odd_sizes_lose_a_row_or_column(tmp_path: Path, size: tuple[int, int]) -> None:
    with write_video(tmp_path / "a.mp4") as write:
        write(encodable(np.zeros((*size, 3), np.uint8)), 0.0)
    (frame,) = read(tmp_path / "a.mp4")
    assert frame[1].shape == (max(2, size[0] // 2 * 2), max(2, size[1] // 2 * 2), 3)


def test_a_frame_of_another_size_is_fitted(tmp_path: Path) -> None:
    with write_video(tmp_path / "a.mp4") as write:
        write(encodable(np.zeros((48, 64, 3), np.uint8)), 0.0)
        write(encodable(np.full((96, 32, 3), 255, np.uint8)), 0.1)
    assert read(tmp_path / "a.mp4")[1][1].mean() > 250


def test_times_that_do_not_grow_are_moved(tmp_path: Path) -> None:
    with write_video(tmp_path / "a.mp4") as write:
        for _ in range(3):
            write(encodable(np.zeros((48, 64, 3), np.uint8)), 0.0)
    assert len(read(tmp_path / "a.mp4")) == 3


def test_without_all_frames_there_is_no_file(tmp_path: Path) -> None:
    def write_half() -> None:
        with write_video(tmp_path / "a.mp4") as write:
            write(encodable(np.zeros((48, 64, 3), np.uint8)), 0.0)
            raise ImageError("broken")

    with pytest.raises(ImageError):
        write_half()
    with write_video(tmp_path / "b.mp4"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_no_place_to_write_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=r"file/a.mp4: cannot be written"),
        write_video(tmp_path / "file" / "a.mp4") as write,
    ):
        write(encodable(np.zeros((48, 64, 3), np.uint8)), 0.0)

"""Videos that are written and joined are read again."""

from pathlib import Path

import numpy as np
import pytest

from motivnet.errors import OutputError
from motivnet.video.reader import Video
from motivnet.video.writer import VideoWriter, join_videos

pytest.importorskip("av")


def read(path: Path) -> list[tuple[float, np.ndarray]]:
    with Video(path) as video:
        return [(frame.time_s, frame.image_hwc_u8) for frame in video]


def test_times_and_colours_are_kept(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.15, 1.0, 3.5]
    colors = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (128, 128, 128), (240, 240, 20)]
    with VideoWriter(tmp_path / "a.mp4", (48, 64)) as writer:
        for time_s, color in zip(times, colors, strict=True):
            writer.write(np.full((48, 64, 3), color, np.uint8), time_s)
    frames = read(tmp_path / "a.mp4")
    assert [time_s for time_s, _ in frames] == pytest.approx(times, abs=1e-4)
    for (_, image), color in zip(frames, colors, strict=True):
        assert image.mean(axis=(0, 1)) == pytest.approx(color, abs=4)


@pytest.mark.parametrize("size", [(49, 65), (1, 1), (48, 65)])
def test_odd_sizes_lose_a_row_or_column(tmp_path: Path, size: tuple[int, int]) -> None:
    with VideoWriter(tmp_path / "a.mp4", size) as writer:
        writer.write(np.zeros((*size, 3), np.uint8), 0.0)
    (frame,) = read(tmp_path / "a.mp4")
    assert frame[1].shape == (max(2, size[0] // 2 * 2), max(2, size[1] // 2 * 2), 3)


def test_a_frame_of_another_size_is_fitted(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", (48, 64)) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8), 0.0)
        writer.write(np.full((96, 32, 3), 255, np.uint8), 0.1)
    assert read(tmp_path / "a.mp4")[1][1].mean() > 250


def test_times_that_do_not_grow_are_moved(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", (48, 64)) as writer:
        for _ in range(3):
            writer.write(np.zeros((48, 64, 3), np.uint8), 0.0)
    assert len(read(tmp_path / "a.mp4")) == 3


def test_pieces_are_joined_without_a_gap(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.08, 0.5, 0.51, 2.0, 2.04]
    pieces = []
    for number, some in enumerate((times[:3], times[3:5], times[5:])):
        path = tmp_path / f"{number}.mp4"
        with VideoWriter(path, (48, 64)) as writer:
            for time_s in some:
                writer.write(np.full((48, 64, 3), 30 * times.index(time_s), np.uint8), time_s - some[0])
        pieces.append((path, some[0]))
    join_videos(pieces, tmp_path / "whole.mp4")
    frames = read(tmp_path / "whole.mp4")
    assert [time_s for time_s, _ in frames] == pytest.approx(times, abs=1e-4)
    assert [image.mean() for _, image in frames] == pytest.approx([30 * k for k in range(7)], abs=3)


def test_no_place_to_write_to(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="cannot be written"),
        VideoWriter(tmp_path / "none" / "a.mp4", (48, 64)) as writer,
    ):
        writer.write(np.zeros((48, 64, 3), np.uint8), 0.0)
    with pytest.raises(OutputError, match="cannot be written"):
        join_videos([(tmp_path / "none.mp4", 0.0)], tmp_path / "a.mp4")

"""Videos that are written are read again."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from motivnet.errors import ImageError, OutputError
from motivnet.frames.reader import Video
from motivnet.frames.selection import Selection
from motivnet.video.writer import encodable, write_video

av = pytest.importorskip("av")


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


def write_sounding(path: Path, hz: int, codec: str, layout: str = "stereo") -> None:
    """Write three seconds: a picture ten times a second, and a tone that begins after one second."""
    rate = 44_100
    tone = 0.5 * np.sin(2 * np.pi * hz * np.arange(3 * rate) / rate) * (np.arange(3 * rate) >= rate)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream(codec, rate=rate, layout=layout)
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(video.encode(frame))
            piece = tone[number * rate // 10 : (number + 1) * rate // 10]
            samples = np.repeat((32767 * piece).astype(np.int16), 2 if layout == "stereo" else 1)[None]
            sound = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
            sound.sample_rate, sound.pts, sound.time_base = rate, number * rate // 10, Fraction(1, rate)
            container.mux(audio.encode(sound))
        container.mux(video.encode())
        container.mux(audio.encode())


def hear(path: Path) -> tuple[np.ndarray, int]:
    """Give the first channel, and its rate."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        start = round(frames[0].time * frames[0].sample_rate)
        heard = np.concatenate([frame.to_ndarray()[0] for frame in frames])
        return np.concatenate([np.zeros(max(0, start), heard.dtype), heard]), frames[0].sample_rate


@pytest.mark.parametrize(("codec", "layout", "suffix"), [("aac", "stereo", "mp4"), ("pcm_s16le", "mono", "avi")])
@pytest.mark.parametrize("start_s", [0.0, 0.5])
def test_sound_is_kept_in_time(tmp_path: Path, codec: str, layout: str, suffix: str, start_s: float) -> None:
    source = tmp_path / f"a.{suffix}"
    write_sounding(source, 440, codec, layout)
    with (
        Video(source, Selection(start_s=start_s, end_s=2.0)) as video,
        write_video(tmp_path / "b.mp4", fps=10, sound=source) as write,
    ):
        for frame in video:
            write(encodable(frame.image_hwc_u8), frame.time_s)
    heard, rate = hear(tmp_path / "b.mp4")
    # As long as the pictures, and the tone begins where it did.
    assert len(heard) / rate == pytest.approx(2.0 - start_s, abs=0.1)
    assert np.flatnonzero(np.abs(heard) > 0.1)[0] / rate == pytest.approx(1.0 - start_s, abs=0.06)
    spectrum = np.abs(np.fft.rfft(heard[round((1.1 - start_s) * rate) : round((1.9 - start_s) * rate)]))
    assert spectrum.argmax() / 0.8 == pytest.approx(440, abs=3)


def test_a_file_without_sound_stays_silent(tmp_path: Path) -> None:
    with write_video(tmp_path / "a.mp4") as write:
        write(encodable(np.zeros((48, 64, 3), np.uint8)), 0.0)
    with write_video(tmp_path / "b.mp4", sound=tmp_path / "a.mp4") as write:
        write(encodable(np.zeros((48, 64, 3), np.uint8)), 0.0)
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]

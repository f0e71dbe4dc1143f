"""Codecs and containers: late starts and goings-on give exactly the frames of a reading from the beginning."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from motivnet.frames import reader as video_module
from motivnet.frames.container import orientation
from motivnet.frames.reader import Frame, Position, Video
from motivnet.frames.selection import Selection

av = pytest.importorskip("av")

NUM_FRAMES = 60
FORMATS = [("libx264", "a.mov"), ("libvpx-vp9", "a.webm")]  # x264 with B frames
MORE_FORMATS = [
    *(("libx264", "a.mp4"), ("libx264", "a.mkv"), ("libx264", "a.ts")),
    *(("libvpx", "a.webm"), ("libx265", "a.mp4"), ("mpeg4", "a.avi"), ("mjpeg", "a.mov")),
]


def draw(
    path: Path, codec: str, times_ms: Sequence[int] | None = None, *, sound: bool = False, title: str = ""
) -> Path:
    """Write 60 frames, 25 a second unless times are given, a key frame every 12; number k is a bar at 4 k pixels."""
    options = {"libx264": {"bf": "3", "preset": "veryfast"}, "libx265": {"x265-params": "log-level=none:keyint=12"}}
    options |= {"libvpx": {"auto-alt-ref": "1", "lag-in-frames": "8", "deadline": "realtime", "cpu-used": "8"}}
    options |= {"libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "8"}}
    base = Fraction(1, 25) if times_ms is None else Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        container.metadata["title"] = title
        stream = container.add_stream(codec, rate=25, options=options.get(codec, {}))
        stream.height, stream.width, stream.pix_fmt = 64, 256, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = 12
        stream.codec_context.time_base = base
        if sound:
            tone = container.add_stream("aac", rate=8000, layout="mono")
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
            silence.sample_rate, silence.pts = 8000, 0
            container.mux(tone.encode(silence))
            container.mux(tone.encode())
        for position in range(NUM_FRAMES):
            image = np.full((64, 256, 3), 30, np.uint8)
            image[:, 4 * position : 4 * position + 16] = 230
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = position if times_ms is None else times_ms[position]
            frame.time_base = base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read(path: Path, selection: Selection | None = None, after: Position | None = None) -> tuple[list[Frame], Video]:
    with Video(path, selection, after=after) as video:
        return list(video), video


def shown(frame: Frame) -> int:
    """Read the number in a frame off its bar."""
    (bright,) = np.nonzero(frame.image_hwc_u8[20:40].mean(axis=(0, 2)) > 130)
    return round(bright.mean() / 4 - 1.9)


@pytest.mark.parametrize(
    ("codec", "name"), [*FORMATS, *(pytest.param(*each, marks=pytest.mark.slow) for each in MORE_FORMATS)]
)
def test_a_late_start_and_going_on_are_exact(tmp_path: Path, codec: str, name: str) -> None:
    path = draw(tmp_path / name, codec)
    whole, _ = read(path)
    assert [frame.index for frame in whole] == list(range(NUM_FRAMES))
    assert [shown(frame) for frame in whole] == list(range(NUM_FRAMES))
    for number in (11, 12, 50):
        late, _ = read(path, Selection(start_s=whole[number].time_s))
        on, _ = read(path, after=Position(number - 1, whole[number - 1].time_s))
        for some in (late, on):
            assert [(frame.index, frame.time_s) for frame in some] == [
                (frame.index, frame.time_s) for frame in whole[number:]
            ]
            assert all(
                np.array_equal(one.image_hwc_u8, other.image_hwc_u8)
                for one, other in zip(some, whole[number:], strict=True)
            )


@pytest.mark.parametrize(("codec", "name"), [("libx264", "a.mp4"), ("libx264", "a.mkv"), ("libvpx-vp9", "a.webm")])
def test_a_late_start_decodes_little(tmp_path: Path, codec: str, name: str) -> None:
    frames, video = read(draw(tmp_path / name, codec), Selection(start_s=1.95))
    assert [shown(frame) for frame in frames] == list(range(49, 60))
    assert video.decoded <= 24 + 1


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_numbers_do_not_depend_on_a_constant_frame_rate(tmp_path: Path, name: str) -> None:
    times_ms = [20 * position + 900 * (position > 20) + 3 * (position % 4) for position in range(NUM_FRAMES)]
    path = draw(tmp_path / name, "libx264", times_ms)
    whole, _ = read(path)
    assert [frame.time_s for frame in whole] == pytest.approx([time / 1000 for time in times_ms], abs=1.1e-3)
    late, video = read(path, Selection(start_s=1.8))
    assert [(frame.index, shown(frame)) for frame in late] == [(k, k) for k in range(45, 60)]
    assert video.decoded < NUM_FRAMES


@pytest.mark.parametrize("selection", [Selection(fps=7, start_s=0.3), Selection(stride=5), Selection(end_s=1.7)])
def test_going_on_keeps_the_selection(tmp_path: Path, selection: Selection) -> None:
    path = draw(tmp_path / "a.mp4", "libx264")
    whole, _ = read(path, selection)
    for number in (1, 4, len(whole) - 1):
        last = whole[number - 1]
        on, _ = read(path, selection, Position(last.index, last.time_s))
        assert [frame.index for frame in on] == [frame.index for frame in whole[number:]]
    last = whole[-1]
    assert read(path, selection, Position(last.index, last.time_s))[0] == []


def test_a_file_that_cannot_be_searched_is_read_from_the_beginning(tmp_path: Path, monkeypatch) -> None:
    path = draw(tmp_path / "a.mp4", "libx264")
    monkeypatch.setattr(video_module.Video, "_seek", lambda self, time_s: False)
    frames, video = read(path, Selection(start_s=1.6))
    assert [(frame.index, shown(frame)) for frame in frames] == [(k, k) for k in range(40, 60)]
    assert video.decoded == NUM_FRAMES


def test_a_title_that_is_not_utf8(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.mkv", "mpeg4", title="a title")
    content = path.read_bytes()
    assert b"a title" in content
    path.write_bytes(content.replace(b"a title", "ä title".encode("latin-1")))
    assert len(read(path)[0]) == NUM_FRAMES


def test_sound_is_ignored(tmp_path: Path) -> None:
    frames, video = read(draw(tmp_path / "a.mp4", "libx264", sound=True), Selection(start_s=1))
    assert [shown(frame) for frame in frames] == list(range(25, 60))
    assert (video.damage, video.corrupt) == (None, 0)


@pytest.mark.parametrize("name", ["a.mp4", pytest.param("a.mkv", marks=pytest.mark.slow)])
def test_corrupt_frames_are_the_same_when_going_on(tmp_path: Path, name: str) -> None:
    path = draw(tmp_path / name, "libx264")
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    at, size = packets[30]
    data[at + 5 : at + size] = b"\xff" * (size - 5)
    path.write_bytes(data)
    whole, video = read(path)
    for number in (3, len(whole) // 2, len(whole) - 3):
        last = whole[number - 1]
        on, again = read(path, after=Position(last.index, last.time_s, last.corrupt))
        assert [(f.index, f.time_s, f.corrupt) for f in on] == [(f.index, f.time_s, f.corrupt) for f in whole[number:]]
        assert again.corrupt == video.corrupt


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_missing_end_is_said(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    times_ms = [100 * position for position in range(NUM_FRAMES)]
    draw(path, "libx264", times_ms)
    assert read(path)[1].damage is None
    if name == "a.mp4":
        # As a camera or `faststart` writes it: the index comes first, so that half a file can be read.
        with (
            av.open(str(path)) as source,
            av.open(str(tmp_path / "b.mp4"), "w", options={"movflags": "faststart"}) as to,
        ):
            stream = to.add_stream_from_template(source.streams.video[0], opaque=True)
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    to.mux(packet)
        path = tmp_path / "b.mp4"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    frames, video = read(path)
    assert 0 < len(frames) < NUM_FRAMES
    if name != "a.ts":  # which does not say how long it is
        assert video.damage


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), "ab/cd"),
        ((-1, 0, 0, 1), "ba/dc"),
        ((1, 0, 0, -1), "cd/ab"),
        ((-1, 0, 0, -1), "dc/ba"),
        ((0, 1, -1, 0), "ca/db"),
        ((0, -1, 1, 0), "bd/ac"),
        ((0, 1, 1, 0), "ac/bd"),
        ((0, -1, -1, 0), "db/ca"),
    ],
)
def test_all_eight_orientations(tmp_path: Path, matrix: tuple[int, int, int, int], expected: str) -> None:
    picture = np.array([["a", "b"], ["c", "d"]])
    swap, left_right, up_down = orientation(matrix)
    turned = picture.T if swap else picture
    turned = turned[:: -1 if up_down else 1, :: -1 if left_right else 1]
    assert "/".join("".join(row) for row in turned) == expected


def test_a_mirrored_file(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.mp4", "libx264")
    data = bytearray(path.read_bytes())
    # The matrix of the track's header: 52 bytes before its end, which are width and height.
    at = data.index(b"tkhd") + 4 + 40
    assert int.from_bytes(data[at : at + 4], "big") == 1 << 16
    data[at : at + 4] = (-(1 << 16)).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    frame = read(path)[0][0]
    assert frame.image_hwc_u8[:, -16:].mean() > 180
    assert frame.image_hwc_u8[:, :16].mean() < 60

"""Videos drawn here are read, searched and turned into rows."""

import itertools
import math
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from motivnet.checkpoints.bundle import Bundle
from motivnet.errors import ConfigError, ImageError
from motivnet.faces import Detection
from motivnet.frames.ahead import map_ahead, read_ahead
from motivnet.frames.reader import Frame, Video
from motivnet.frames.selection import Selection
from motivnet.images import ImageLimits
from motivnet.inference.predictor import Predictor
from motivnet.inference.rows import all_columns
from motivnet.preprocess import Box
from motivnet.video.follow import MAX_WAITING, follow
from motivnet.video.video_config import FollowConfig

av = pytest.importorskip("av")

MILLISECOND = Fraction(1, 1000)


def draw(path: Path, images: Sequence[np.ndarray], times_ms: Sequence[int] | None = None, turn: int = 0) -> Path:
    """Write a video of mpeg4, a key frame each; 25 frames per second unless times are given."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        stream.codec_context.gop_size = 1
        if times_ms is not None:
            stream.codec_context.time_base = MILLISECOND
        if turn:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("PyAV before 18 cannot write a rotation")
            stream.set_display_rotation(turn)
        for position, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = position if times_ms is None else times_ms[position]
            frame.time_base = Fraction(1, 25) if times_ms is None else MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def greys(number: int) -> list[np.ndarray]:
    """Frame k has the brightness 10 k + 20."""
    return [np.full((48, 64, 3), 10 * position + 20, np.uint8) for position in range(number)]


def read(path: Path, selection: Selection | None = None) -> list[Frame]:
    with Video(path, selection) as video:
        return list(video)


def test_frames_come_in_order_with_their_times(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.mp4", greys(10))
    with Video(path) as video:
        frames = list(video)
        info = video.info
        assert (video.decoded, video.corrupt) == (10, 0)
    assert [frame.index for frame in frames] == list(range(10))
    assert [frame.time_s for frame in frames] == pytest.approx([k / 25 for k in range(10)])
    assert [frame.image_hwc_u8.mean() for frame in frames] == pytest.approx([10 * k + 20 for k in range(10)], abs=3)
    assert frames[0].image_hwc_u8.shape == (48, 64, 3)
    assert (info.width, info.height, info.fps, info.num_frames) == (64, 48, 25, 10)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_variable_frame_rate(tmp_path: Path, suffix: str) -> None:
    times_ms = [0, 40, 500, 520, 2000]
    frames = read(draw(tmp_path / f"a{suffix}", greys(5), times_ms))
    assert [frame.time_s for frame in frames] == pytest.approx([time / 1000 for time in times_ms], abs=1e-3)


@pytest.mark.parametrize(("turn", "corner"), [(90, (-1, 0)), (-90, (0, -1)), (180, (-1, -1))])
def test_rotation_is_applied(tmp_path: Path, turn: int, corner: tuple[int, int]) -> None:
    image = np.full((48, 64, 3), 20, np.uint8)
    image[:16, :16] = 220
    (frame,) = read(draw(tmp_path / "a.mp4", [image], turn=turn))
    upright = frame.image_hwc_u8
    assert upright.shape == ((64, 48, 3) if abs(turn) == 90 else (48, 64, 3))
    rows, cols = (slice(8) if edge == 0 else slice(-8, None) for edge in corner)
    assert upright[rows, cols].mean() > 180
    assert upright.flags.c_contiguous


@pytest.mark.parametrize(
    ("wanted", "indices"),
    [
        (Selection(stride=4), [0, 4, 8]),
        (Selection(fps=10), [0, 3, 5, 8]),
        (Selection(fps=1000), list(range(10))),
        (Selection(start_s=0.12, end_s=0.24), [3, 4, 5]),
        (Selection(start_s=0.1, fps=5), [3, 8]),
        (Selection(end_s=0.2, stride=2), [0, 2, 4]),
    ],
)
def test_selection(tmp_path: Path, wanted: Selection, indices: list[int]) -> None:
    assert [frame.index for frame in read(draw(tmp_path / "a.mp4", greys(10)), wanted)] == indices


@pytest.mark.parametrize(
    ("selection", "frames"),
    [(Selection(), 10), (Selection(start_s=0.2, stride=2), 2), (Selection(end_s=0.2, fps=10), 2)],
)
def test_the_number_of_frames_is_estimated(tmp_path: Path, selection: Selection, frames: int) -> None:
    with Video(draw(tmp_path / "a.mp4", greys(10)), selection) as video:
        assert video.estimate() == frames


@pytest.mark.parametrize(
    "wrong", [{"stride": 0}, {"fps": 0}, {"fps": 5, "stride": 2}, {"start_s": -1}, {"start_s": 2, "end_s": 2}]
)
def test_selection_out_of_range(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        Selection(**wrong)


def test_a_range_beyond_the_end(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no frame from 9 s to the end; the last one seen is at 0.08 s"):
        read(draw(tmp_path / "a.mp4", greys(3)), Selection(start_s=9))


@pytest.mark.parametrize("broken", [4, 8])
def test_corrupt_frames_are_counted_and_skipped(tmp_path: Path, broken: int) -> None:
    path = draw(tmp_path / "a.avi", greys(10))
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    at, size = packets[broken]
    data[at : at + size] = bytes(size)
    path.write_bytes(data)
    with Video(path) as video:
        indices = [frame.index for frame in video]
        assert video.corrupt == 1
    assert indices == [index for index in range(10) if index != broken]


def test_a_truncated_file_gives_what_it_has(tmp_path: Path) -> None:
    path = draw(
        tmp_path / "a.mkv", [np.random.default_rng(k).integers(0, 255, (48, 64, 3), np.uint8) for k in range(9)]
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 1 <= len(read(path)) < 9


def test_files_that_are_no_video(tmp_path: Path) -> None:
    text, empty, playlist = tmp_path / "text.mp4", tmp_path / "empty.mp4", tmp_path / "list.mp4"
    text.write_text("not a video\n" * 100)
    empty.touch()
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    for path, says in [
        (text, "not a video"),
        (playlist, "not a video"),
        (empty, "empty"),
        (tmp_path / "none.mp4", "no such file"),
        (tmp_path, "is a folder"),
    ]:
        with pytest.raises(ImageError, match=says):
            Video(path)


def test_sound_only(tmp_path: Path) -> None:
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ImageError, match=r"no video stream \(streams: audio\)"):
        Video(path)


def test_not_one_good_frame(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.avi", greys(1))
    with av.open(str(path)) as container:
        packet = next(container.demux(video=0))
        at, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[at : at + size] = bytes(size)
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"no frame of the video can be decoded|no video"):
        read(path)


def test_frames_beyond_the_limits(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.mp4", greys(1))
    with pytest.raises(ImageError, match="64 x 48 pixels, the limit is 100"):
        Video(path, limits=ImageLimits(max_pixels=100))


def test_closing_in_the_middle_ends_the_iteration(tmp_path: Path) -> None:
    video = Video(draw(tmp_path / "a.mp4", greys(20)))
    frames = iter(video)
    next(frames)
    video.close()
    assert len(list(frames)) < 20


def test_reading_ahead_is_bounded_and_ends_with_its_reader() -> None:
    seen: list[int] = []

    def count() -> Iterator[int]:
        for number in itertools.count():
            seen.append(number)
            yield number

    before = set(threading.enumerate())
    ahead = read_ahead(count(), 3)
    assert [next(ahead) for _ in range(5)] == [0, 1, 2, 3, 4]
    ahead.close()
    assert len(seen) <= 5 + 3 + 1
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("motivnet-ahead")]


def test_mapping_ahead_keeps_the_order_and_is_bounded() -> None:
    pulled, done, before = itertools.count(), [], set(threading.enumerate())

    def work(number: int) -> int:
        done.append(number)
        return 10 * number

    ahead = map_ahead(work, pulled, 3)
    assert [next(ahead) for _ in range(50)] == list(range(0, 500, 10))
    ahead.close()
    assert next(pulled) <= 50 + 2 * 3 + 1
    assert set(range(50)) <= set(done)
    assert list(map_ahead(work, range(4), 3)) == [0, 10, 20, 30]
    with pytest.raises(ZeroDivisionError):
        list(map_ahead(lambda number: 1 // number, [1, 0], 2))
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("motivnet-map")]


def test_errors_of_the_thread_are_raised_here() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ImageError("broken")

    ahead = read_ahead(broken(), 3)
    assert next(ahead) == 1
    with pytest.raises(ImageError, match="broken"):
        next(ahead)


class Spots:
    """Finds a face of 16 x 16 pixels where the script of a test says, and counts its calls."""

    name = "spots"

    def __init__(self, *script: Sequence[int]) -> None:
        self.script = script
        self.calls = 0

    def detect(self, image_hwc_u8: np.ndarray) -> list[Detection]:
        xs = self.script[self.calls % len(self.script)]
        self.calls += 1
        return [Detection(Box(x, 8, 16, 16), 0.9) for x in xs]


def predictor(bundle: Bundle, detector: Spots, batch_size: int = 64) -> Predictor:
    """Detect in one thread, so that the calls of the detector are in order."""
    return Predictor.load(bundle.path, detector=detector, batch_size=batch_size, workers=1)


def still(values: Sequence[int]) -> Iterator[Frame]:
    for index, value in enumerate(values):
        yield Frame(index, index / 10, np.full((48, 64, 3), value, np.uint8))


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_rows_per_face_per_frame(tiny_bundle: Bundle, batch_size: int) -> None:
    model = predictor(tiny_bundle, Spots([0, 40], [], [41, 1]), batch_size)
    labels = model.config.labels.names
    rows = [row for result in follow(model, still([255, 128, 0])) for row in result.rows({"source": "a"})]
    assert all(row["source"] == "a" and set(row) <= set(all_columns(labels)) for row in rows)
    names = ("frame", "face", "track", "emotion", "status")
    assert [tuple(row.get(name) for name in names) for row in rows] == [
        (0, 0, 0, "happiness", "ok"),
        (0, 1, 1, "happiness", "ok"),
        (1, None, None, None, "no_face"),
        (2, 0, 1, "sadness", "ok"),
        (2, 1, 0, "sadness", "ok"),
    ]
    assert rows[1]["x"] == 40
    assert sum(rows[0][f"prob_{label}"] for label in labels) == pytest.approx(1, abs=1e-5)


def test_boxes_move_evenly_between_searches(tiny_bundle: Bundle) -> None:
    detector = Spots([0], [3], [])
    config = FollowConfig(detect_every=3)
    results = list(follow(predictor(tiny_bundle, detector), still([255, 255, 0, 0, 0, 0, 0]), config))
    assert detector.calls == 3
    assert [[face.box.x for face in result.faces] for result in results] == [[0], [1], [2], [3], [3], [3], []]
    assert [result.faces[0].emotion for result in results[:3]] == ["happiness", "happiness", "sadness"]
    assert {track_id for result in results for track_id in result.tracks} == {0}


def test_smoothing_holds_an_emotion_for_a_while(tiny_bundle: Bundle) -> None:
    config = FollowConfig(smooth_s=0.5)
    results = list(follow(predictor(tiny_bundle, Spots([0])), still([255] * 5 + [0] * 10), config))
    emotions = [result.faces[0].emotion for result in results]
    assert emotions[5] == "happiness"
    assert emotions[-1] == "sadness"


def test_images_are_kept_only_when_live(tiny_bundle: Bundle) -> None:
    model = predictor(tiny_bundle, Spots([0]))
    assert [result.frame.image_hwc_u8.size for result in follow(model, still([9, 9]))] == [0, 0]
    kept = [result.frame.image_hwc_u8 for result in follow(model, still([9] * 40), live=True)]
    assert [image.mean() for image in kept] == [9] * 40


def test_an_error_of_the_frames_reaches_the_caller(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = draw(tmp_path / "a.mp4", greys(3))
    with Video(path, Selection(start_s=5)) as video, pytest.raises(ConfigError, match="no frame from 5 s"):
        list(follow(predictor(tiny_bundle, Spots([0])), video))


@pytest.mark.parametrize(
    "wrong",
    [
        *({"detect_every": 0}, {"checkpoint_every": 0}, {"min_iou": 0}, {"min_iou": 1.1}),
        *({"max_gap_s": -1}, {"max_gap_s": math.nan}, {"smooth_s": -0.1}, {"smooth_s": math.nan}),
    ],
)
def test_follow_settings_out_of_range(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="must be"):
        FollowConfig(**wrong)


def test_checkpoints_are_where_faces_are_detected_next(tiny_bundle: Bundle) -> None:
    config = FollowConfig(detect_every=3, checkpoint_every=4)
    results = follow(predictor(tiny_bundle, Spots([0])), still([9] * 14), config)
    assert [result.frame.index for result in results if result.state] == [5, 11]


def test_searches_far_apart_leave_boxes_where_they_are(tiny_bundle: Bundle) -> None:
    config = FollowConfig(detect_every=MAX_WAITING + 1, checkpoint_every=1)
    results = list(follow(predictor(tiny_bundle, Spots([0], [3])), still([9] * (MAX_WAITING + 3)), config))
    assert [result.faces[0].box.x for result in results] == [0] * (MAX_WAITING + 1) + [3] * 2
    assert [result.frame.index for result in results if result.state] == [MAX_WAITING]


def test_boxes_stand_still_in_live_pictures(tiny_bundle: Bundle) -> None:
    results = follow(predictor(tiny_bundle, Spots([0], [3])), still([9] * 4), FollowConfig(detect_every=2), live=True)
    assert [result.faces[0].box.x for result in results] == [0, 0, 3, 3]


@pytest.mark.parametrize("every", [1, 3])
def test_threads_change_nothing(tiny_bundle: Bundle, tmp_path: Path, astronaut: np.ndarray, every: int) -> None:
    images = [np.ascontiguousarray(astronaut[:240, number : number + 320]) for number in range(0, 160, 8)]
    path, config = draw(tmp_path / "a.mp4", images), FollowConfig(detect_every=every, checkpoint_every=4)
    runs = []
    for workers in (1, 4):
        model = Predictor.load(tiny_bundle.path, workers=workers)
        with Video(path) as video:
            runs.append([(result.faces, result.tracks, result.state) for result in follow(model, video, config)])
    assert runs[0] == runs[1]
    xs = [faces[0].box.x for faces, _, _ in runs[0]]
    assert np.abs(np.diff(xs[: every * (len(xs) // every)]) + 8).max() < 6


def test_a_photograph_as_a_video(tiny_bundle: Bundle, tmp_path: Path, astronaut: np.ndarray) -> None:
    path = draw(tmp_path / "a.mp4", [astronaut] * 6)
    with Video(path) as video:
        model = Predictor.load(tiny_bundle.path)
        results = list(follow(model, video, FollowConfig(detect_every=2)))
    assert [result.tracks for result in results] == [(0,)] * 6

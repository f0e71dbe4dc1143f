"""`label_video` and `label_live` from Python."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import motivnet
from motivnet.errors import ConfigError, ImageError, OutputError
from motivnet.frames.reader import Video
from motivnet.frames.selection import Selection
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.inference.rows import all_columns
from motivnet.labels import EMOTIONS
from motivnet.video.camera import label_live
from motivnet.video.outputs import annotate_video
from motivnet.video.video_config import FollowConfig, TablesConfig

av = pytest.importorskip("av")

WHOLE = PredictorConfig(detector="whole")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Twelve frames of growing brightness."""
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_without_an_output_the_rows_are_returned(clip: Path, tiny_bundle, tmp_path: Path) -> None:
    steps = []
    missing = tmp_path / "missing.mp4"
    good, bad = motivnet.label_video(
        [clip, missing],
        model=tiny_bundle.path,
        config=WHOLE,
        selection=Selection(stride=4),
        annotate=tmp_path / "drawn",
        progress=lambda *step: steps.append(step),
    )
    assert good.rows is not None
    assert good.summary is not None
    assert [row["frame"] for row in good.rows] == [0, 4, 8]
    assert list(good.rows[0]) == list(all_columns(EMOTIONS))
    assert (good.summary.frames, good.summary.tracks[0].frames) == (3, 3)
    assert good.files == (tmp_path / "drawn" / "clip.mp4",)
    assert (bad.error, bad.summary) == (f"{missing}: no such file", None)
    assert [row["status"] for row in bad.rows or ()] == ["unreadable"]
    assert steps == [(name, done, 3) for name in ("clip.avi", "clip.avi, annotating") for done in (1, 2, 3)]
    assert {path.name for path in tmp_path.iterdir()} >= {"clip.avi", "drawn"}


def test_with_an_output_the_rows_are_written(clip: Path, tiny_bundle, tmp_path: Path) -> None:
    (done,) = motivnet.label_video(clip, tmp_path / "rows.csv", model=tiny_bundle.path, config=WHOLE)
    assert (done.rows, done.error, done.files) == (None, None, ())
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 13


def test_short_tracks_are_marked(clip: Path, tiny_bundle, tmp_path: Path) -> None:
    follow, out = FollowConfig(min_track_s=1.0), tmp_path / "rows.jsonl"
    options = {"model": tiny_bundle.path, "config": WHOLE, "follow": follow}
    (listed,) = motivnet.label_video(clip, annotate=tmp_path / "drawn.mp4", **options)
    assert listed.rows is not None
    assert [row["short_track"] for row in listed.rows] == [True] * 12
    motivnet.label_video(clip, out, **options)
    assert [json.loads(line)["short_track"] for line in out.read_text().splitlines()] == [True] * 12


def test_landmarks_on_request_are_columns_also_where_the_detector_has_none(
    clip: Path, tiny_bundle, tmp_path: Path
) -> None:
    config = PredictorConfig(detector="whole", landmarks=True)
    (done,) = motivnet.label_video(clip, model=tiny_bundle.path, config=config, annotate=tmp_path / "drawn.mp4")
    assert done.rows is not None
    assert list(done.rows[0]) == list(all_columns(EMOTIONS, landmarks=True))
    assert done.rows[0]["yaw"] is None


def test_landmarks_are_drawn_on_the_frames_of_the_rows(tiny_bundle, astronaut, tmp_path: Path) -> None:
    path = tmp_path / "face.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 512, 512, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(astronaut, format="rgb24")))
        container.mux(stream.encode())
    config = PredictorConfig(landmarks=True)
    (done,) = motivnet.label_video(path, model=tiny_bundle.path, config=config, annotate=tmp_path / "drawn.mp4")
    (row,) = done.rows or ()
    with Video(tmp_path / "drawn.mp4") as drawn:
        image_hwc_u8 = next(iter(drawn)).image_hwc_u8
    x, y = round(row["right_eye_x"]), round(row["right_eye_y"])
    change = np.abs(image_hwc_u8.astype(int) - astronaut)[y - 2 : y + 3, x - 2 : x + 3]
    assert change.max() > 60


def test_only_a_run_with_an_output_can_be_resumed(clip: Path) -> None:
    with pytest.raises(ConfigError, match="together with out"):
        motivnet.label_video(clip, resume=True)


def test_rows_of_other_frames_are_not_drawn(clip: Path, tmp_path: Path) -> None:
    rows = [{"frame": number, "time_s": 0.0, "status": "no_face"} for number in (0, 2)]
    with Video(clip) as video, pytest.raises(ImageError, match="has changed"):
        list(annotate_video(video, rows, EMOTIONS, tmp_path / "drawn.mp4"))
    assert not (tmp_path / "drawn.mp4").exists()


def test_a_live_run_ends_when_it_is_no_longer_shown(clip: Path, tiny_bundle) -> None:
    shown = []

    def show(picture: np.ndarray) -> bool:
        shown.append(picture.shape)
        return len(shown) < 2

    stats = label_live(str(clip), show=show, model=tiny_bundle.path, config=WHOLE)
    assert shown == [(48, 64, 3)] * 2
    assert (stats.frames, stats.error) == (2, None)
    assert str(stats).startswith("2 frames in")


def test_tables_are_written_beside_the_rows(clip: Path, tiny_bundle, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("xlsxwriter")
    tables = TablesConfig(summary=tmp_path / "summary.csv", elan=tmp_path / "elan")
    options = {"model": tiny_bundle.path, "config": WHOLE, "tables": tables}
    videos = [clip, tmp_path / "missing.mp4"]
    with pytest.raises(ConfigError, match="tables: without an output file"):
        motivnet.label_video(videos, **options)
    with pytest.raises(OutputError, match=r"rows\.csv: is named twice"):
        motivnet.label_video(
            videos, tmp_path / "rows.csv", **options | {"tables": TablesConfig(summary=tmp_path / "rows.csv")}
        )
    motivnet.label_video(videos, tmp_path / "rows.csv", **options)
    summary = pandas.read_csv(tmp_path / "summary.csv")
    assert summary["source"].unique().tolist() == [str(clip), str(tmp_path / "missing.mp4")]
    assert summary["status"].tolist() == ["ok"] * 7 + ["unreadable"]
    seen = summary[summary["status"] == "ok"]
    assert seen["time_s"].sum() == pytest.approx(12 / 25)
    assert seen["onsets"].sum() == 3  # dark, middling, bright
    assert {path.name for path in (tmp_path / "elan").iterdir()} == {"clip.eaf", "missing.eaf"}
    # The bare table is what was asked for first: what is there already is refused before any work.
    with pytest.raises(OutputError, match=r"summary\.csv: exists already"):
        motivnet.label_video(videos, tmp_path / "other.csv", **options)

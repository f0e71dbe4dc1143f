"""Manifests of clips: their schema, what is refused, and the readers and tools that take them."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from motivnet.data.clean import picture_keys
from motivnet.data.inspect import inspect_manifest
from motivnet.data.loader import FaceDataset
from motivnet.data.manifest import ADDED, make_manifest, read_manifest, write_manifest
from motivnet.data.sources.named import read_source, with_boxes
from motivnet.errors import DataError
from motivnet.faces import Detection
from motivnet.preprocess import NANO, Box


def clips_of(*paths, **columns):
    length = len(paths)
    usual = {"label": ["anger"] * length, "split": ["all"] * length, "start_s": [0.0] * length}
    return make_manifest({"path": list(map(str, paths)), **usual, **columns})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"end_s": [1.0, 0.0]}, r"row 1: a clip from 0\.0 to 0\.0 s\. Allowed: an end after the start"),
        ({"start_s": [0.0, 2.0], "end_s": [None, 1.5]}, r"row 1: a clip from 2\.0 to 1\.5 s"),
        ({"start_s": [-1.0, 0.0]}, r"row 0: a clip from -1\.0"),
        ({"start_s": [float("nan"), 0.0]}, "row 0: a clip from nan"),
        ({"start_s": [0.0, None]}, r"row 1: an image among clips\. Allowed: one kind of rows"),
        ({"start_s": [0.0, 0.0], "path": ["a.mp4", None], "image": [None, b"x"]}, "row 1: an image among clips"),
        ({"label": ["anger", "calm"]}, "row 1: label 'calm'"),
        (
            {"subject": ["S1", "S1"], "fold": ["1", "2"]},
            "subject S1 is in folds 1 and 2: folds must not share a person",
        ),
    ],
)
def test_what_is_refused(columns, message):
    with pytest.raises(DataError, match=message):
        clips_of("a.mp4", "b.mp4", **columns)


def test_folds_may_share_what_has_no_name():
    manifest = clips_of("a.mp4", "b.mp4", "c.mp4", subject=[None, None, "S1"], fold=["1", "2", "2"])
    assert manifest.hold_out_fold("2").table["split"].to_pylist() == ["train", "test", "test"]


def test_written_and_read_back(tmp_path):
    manifest = clips_of(
        "a.mp4", "a.mp4", start_s=[0.0, 1.5], end_s=[1.5, None], fold=["1", "2"], label=["anger", "fear"]
    )
    write_manifest(manifest, tmp_path / "clips.parquet")
    back = read_source(f"manifest:{tmp_path / 'clips.parquet'}")
    assert back.table.equals(manifest.table)
    assert [back.where(row) for row in range(2)] == ["a.mp4", "a.mp4 from 1.5 s"]
    assert back.fingerprint() == manifest.fingerprint()
    moved = clips_of("a.mp4", "a.mp4", start_s=[0.0, 1.6], end_s=[1.5, None], label=["anger", "fear"])
    assert moved.fingerprint() != manifest.fingerprint()


def test_an_edited_manifest_is_checked_again(tmp_path):
    path = tmp_path / "clips.parquet"
    write_manifest(clips_of("a.mp4", "b.mp4", subject=["S1", "S1"], fold=["1", "1"]), path)
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index("fold"), "fold", [["1", "2"]]), path)
    with pytest.raises(DataError, match="folds must not share a person"):
        read_source(f"manifest:{path}")


def test_a_manifest_of_an_older_version(tmp_path):
    path = tmp_path / "old.parquet"
    manifest = make_manifest({"path": ["a.jpg"], "label": ["anger"], "split": ["all"]})
    write_manifest(manifest, path)
    pq.write_table(pq.read_table(path).drop_columns(list(ADDED)), path)
    assert read_manifest(path).table.equals(manifest.table)


def test_a_table_of_clips(tmp_path, draw_clip):
    draw_clip(tmp_path / "a.mp4", [50, 100])
    (tmp_path / "frames").mkdir()
    text = "path,label,subject,fold,start_s,end_s\na.mp4,happy,S1,1,,\na.mp4,sad,S1,1,0.1,0.2\nframes,fear,S2,2,,\n"
    (tmp_path / "clips.csv").write_text(text)
    table = read_source(f"csv:{tmp_path / 'clips.csv'}").table
    assert table["start_s"].to_pylist() == [0.0, 0.1, 0.0]
    assert table["end_s"].to_pylist() == [None, 0.2, None]
    assert table["fold"].to_pylist() == ["1", "1", "2"]
    (tmp_path / "clips.csv").write_text(text.replace("0.1,0.2", ",").replace("sad", "happy"))
    assert len(read_source(f"csv:{tmp_path / 'clips.csv'}")) == 3
    (tmp_path / "clips.csv").write_text(text.replace("0.1,0.2", ","))
    with pytest.raises(DataError, match="is happiness in row 0 of split all and sadness in row 1 of split all"):
        read_source(f"csv:{tmp_path / 'clips.csv'}")


def test_keys_of_clips(tmp_path, draw_clip):
    one = draw_clip(tmp_path / "a.mp4", range(20, 220, 20))
    (tmp_path / "b.mp4").write_bytes(one.read_bytes())
    frames = tmp_path / "frames"
    frames.mkdir()
    Image.new("L", (8, 8), 7).save(frames / "1.png")
    manifest = clips_of(one, tmp_path / "b.mp4", one, frames, start_s=[0.0, 0.0, 0.3, 0.0])
    keys, blank = picture_keys(manifest)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    assert not blank.any()
    with pytest.raises(DataError, match=r"absent\.mp4.*No such file"):
        picture_keys(clips_of(tmp_path / "absent.mp4"))
    (frames / "1.png").unlink()
    with pytest.raises(DataError, match="a clip without frames"):
        picture_keys(clips_of(frames))


def test_inspection_sees_the_middle_of_a_clip(tmp_path, draw_clip):
    one = draw_clip(tmp_path / "a.mp4", [40, 90, 200])
    empty = tmp_path / "empty"
    empty.mkdir()
    found = inspect_manifest(clips_of(one, one, tmp_path / "absent.mp4", empty, one, start_s=[0, 0, 0, 0, 0.1]))
    counts = {kind: each["rows"] for kind, each in found.count_problems().items()}
    # All frames of one brightness are blank.
    assert counts == {"missing": 1, "unreadable": 1, "blank": 3, "listed_twice": 1}
    assert [row["row"] for row in found.problems.to_pylist() if row["kind"] == "listed_twice"] == [1]


def test_faces_of_clips(tmp_path, draw_clip):
    manifest = clips_of(draw_clip(tmp_path / "a.mp4", range(20, 220, 20)), box=[[8, 8, 16, 16]])
    faces = FaceDataset(manifest, NANO, cache=True, num_frames=5)
    pixels = faces.__getitems__([0]).pixels
    assert pixels.shape == (1, 5, 96, 96)
    brightness = NANO.denormalise(pixels.numpy()).mean((1, 2, 3))
    np.testing.assert_allclose(brightness, [40, 80, 120, 160, 200], atol=3)
    assert faces[0].pixels.equal(pixels)
    # One frame: the middle; of an image, all frames are the same.
    assert NANO.denormalise(FaceDataset(manifest, NANO)[0].pixels.numpy()).mean() == pytest.approx(120, abs=3)
    Image.new("L", (32, 32), 77).save(tmp_path / "a.png")
    still = make_manifest({"path": [str(tmp_path / "a.png")], "label": ["anger"], "split": ["all"]})
    assert (
        NANO.denormalise(FaceDataset(still, NANO, num_frames=3)[0].pixels.numpy()).tolist()
        == np.full((3, 96, 96, 1), 77).tolist()
    )
    with pytest.raises(DataError, match=r"absent\.mp4: .*no such file"):
        FaceDataset(clips_of(tmp_path / "absent.mp4"), NANO)[0]


class Walker:
    """Finds a face that moves with the brightness, and none in the dark."""

    name = "walker"

    def detect(self, image_hwc_u8: np.ndarray) -> list[Detection]:
        x = round(float(image_hwc_u8.mean()) / 20)
        return [Detection(Box(x, 1, 8, 9), 0.9), Detection(Box(0, 0, 2, 2), 0.9)] if x > 1 else []


def test_one_box_for_a_clip(tmp_path: Path, draw_clip) -> None:
    bright, dark = draw_clip(tmp_path / "a.mp4", range(20, 220, 20)), draw_clip(tmp_path / "b.mp4", [5] * 4)
    found = with_boxes(clips_of(bright, dark), Walker())
    # Frames 1, 3, 5, 7 and 9 have brightnesses of 40 to 200.
    assert found.table["box"].to_pylist() == [[6, 1, 8, 9]]
    assert found.dropped == {"no face found": 1}
    with pytest.raises(DataError, match="no such file"):
        with_boxes(clips_of(tmp_path / "absent.mp4"), Walker())

"""Every kind of problem is found where it was planted, and nothing where nothing was."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from motivnet.data.inspect import PROBLEMS, Inspection, count_groups, inspect_manifest
from motivnet.data.manifest import Manifest, make_manifest
from motivnet.data.sheet import read_face
from motivnet.data.sources.fer2013 import read_fer2013
from motivnet.errors import DataError


def picture(seed: int, side: int = 64) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC)


def build(folder: Path, rows: list[dict[str, Any]], **dropped: int) -> Manifest:
    """Make a manifest; `file` names a file in the folder, other columns have defaults."""
    defaults = {"label": "anger", "split": "train", "subject": None, "box": None, "groups": None}
    full = [defaults | row for row in rows]
    columns: dict[str, list[Any]] = {name: [row[name] for row in full] for name in defaults}
    columns["path"] = [str(folder / row["file"]) for row in full]
    columns["row"] = list(range(100, 100 + len(rows)))
    return make_manifest(columns, dropped=dropped)


def listed(inspection: Inspection, kind: str) -> list[tuple[int, int | None]]:
    """Give source row and other row of the problems of a kind."""
    rows = [row for row in inspection.problems.to_pylist() if row["kind"] == kind]
    return [(row["row"], row["other_row"]) for row in rows]


@pytest.fixture
def clean(tmp_path: Path) -> Manifest:
    for i in range(6):
        picture(i).save(tmp_path / f"{i}.png")
    labels = ["anger", "fear"] * 3
    return build(
        tmp_path,
        [
            {"file": f"{i}.png", "label": labels[i], "split": "train" if i < 4 else "test", "subject": f"S{i}"}
            for i in range(6)
        ],
    )


@pytest.mark.parametrize("pixels", [True, False])
def test_a_clean_set_has_no_problems(clean: Manifest, pixels: bool) -> None:
    found = inspect_manifest(clean, pixels=pixels)
    assert found.problems.num_rows == 0
    assert found.usable.all()
    summary = found.to_dict()
    assert summary["problems"] == {}
    assert summary["subjects"] == 6
    assert summary["counts"]["train"]["anger"] == 2
    assert summary["copies"]["exact"] == {"train": {"test": 0}, "test": {"train": 0}}
    assert ("near" in summary["copies"]) == pixels


@pytest.fixture
def faulty(tmp_path: Path) -> Manifest:
    for i in range(4):
        picture(i).save(tmp_path / f"{i}.png")
    picture(0).save(tmp_path / "same_pixels.bmp")
    picture(1).save(tmp_path / "jpeg.jpg", quality=80)
    picture(2).resize((40, 40)).save(tmp_path / "small.png")
    Image.new("RGB", (30, 30), (9, 9, 9)).save(tmp_path / "blank.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return build(
        tmp_path,
        [
            {"file": "0.png"},  # 100
            {"file": "1.png", "subject": "A"},  # 101
            {"file": "2.png", "subject": "B"},  # 102
            {"file": "3.png"},  # 103
            {"file": "same_pixels.bmp", "label": "fear"},  # 104: 100 under another label
            {"file": "jpeg.jpg", "split": "test", "subject": "A"},  # 105: 101 encoded anew, same subject
            {"file": "small.png", "label": "fear", "subject": "B"},  # 106: 102 resized
            {"file": "blank.png"},  # 107
            {"file": "broken.png"},  # 108
            {"file": "absent.png"},  # 109
            {"file": "3.png"},  # 110: 103 listed twice
            {"file": "3.png", "box": (900, 0, 10, 10)},  # 111: a box outside
            {"file": "0.png", "split": "test", "box": (0, 0, 64, 64)},  # 112: 100 as a face in a larger image
        ],
        uncertain=4,
    )


def test_every_problem_is_a_row(faulty: Manifest) -> None:
    found = inspect_manifest(faulty)
    assert {kind: listed(found, kind) for kind in PROBLEMS} == {
        "missing": [(109, None)],
        "unreadable": [(108, None)],
        "bad_box": [(111, None)],
        "blank": [(107, None)],
        "listed_twice": [(110, 103)],
        "duplicate": [(104, 100), (112, 100)],
        "near_duplicate": [(105, 101), (106, 102)],
        "neighbours": [],
        "two_labels": [(104, 100)],
        "shared_subject": [(105, 101)],
    }
    assert np.flatnonzero(~found.usable).tolist() == [8, 9, 11]
    rows = {(row["kind"], row["row"]): row for row in found.problems.to_pylist()}
    near = rows["near_duplicate", 105]
    assert (near["split"], near["other_split"]) == ("test", "train")
    assert near["path"].endswith("jpeg.jpg")
    assert near["other_path"].endswith("1.png")
    assert near["detail"].startswith("differs by at most 0.")
    assert rows["shared_subject", 105]["detail"] == "subject A: 1 rows here, 1 there"
    assert rows["two_labels", 104]["other_label"] == "anger"
    assert "64 x 64 pixels" in rows["bad_box", 111]["detail"]


def test_the_summary_counts_them(faulty: Manifest) -> None:
    summary = inspect_manifest(faulty).to_dict()
    assert summary["dropped"] == {"uncertain": 4}
    assert summary["problems"]["duplicate"] == {"rows": 2, "across_splits": 1, "other_label": 1}
    assert summary["problems"]["near_duplicate"] == {"rows": 2, "across_splits": 1, "other_label": 1}
    assert summary["problems"]["missing"] == {"rows": 1, "across_splits": 0, "other_label": 0}
    assert list(summary["problems"]) == [kind for kind in PROBLEMS if kind != "neighbours"]
    # 100 and 104 recur as 112; 101 recurs as 105, encoded anew.
    assert summary["copies"] == {
        "exact": {"train": {"test": 2}, "test": {"train": 1}},
        "near": {"train": {"test": 1}, "test": {"train": 1}},
    }


def test_without_pixels_no_image_is_opened(faulty: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("motivnet.data.manifest.decode_image", lambda source, **_: pytest.fail(f"opened {source}"))
    found = inspect_manifest(faulty, pixels=False)
    assert set(found.count_problems()) == {"missing", "listed_twice", "shared_subject"}
    assert listed(found, "missing") == [(109, None)]
    assert listed(found, "listed_twice") == [(110, 103)]


def test_a_file_under_two_labels_is_found_without_pixels(clean: Manifest, tmp_path: Path) -> None:
    rows = [{"file": "0.png"}, {"file": "1.png"}, {"file": "0.png", "label": "fear", "split": "test"}]
    found = inspect_manifest(build(tmp_path, rows), pixels=False)
    assert listed(found, "two_labels") == [(102, 100)]
    assert found.copies["exact"] == {"train": {"test": 1}, "test": {"train": 1}}


def test_two_faces_in_one_file_are_two_images(tmp_path: Path) -> None:
    scene = Image.new("RGB", (128, 64))
    scene.paste(picture(1), (0, 0))
    scene.paste(picture(2), (64, 0))
    scene.save(tmp_path / "scene.png")
    left, right = (0, 0, 64, 64), (64, 0, 64, 64)
    rows = [{"file": "scene.png", "box": left}, {"file": "scene.png", "box": right, "label": "fear"}]
    assert inspect_manifest(build(tmp_path, rows)).problems.num_rows == 0
    again = inspect_manifest(build(tmp_path, [*rows, {"file": "scene.png", "box": left}]))
    assert listed(again, "listed_twice") == [(102, 100)]


def test_a_box_beyond_the_edge_is_cut(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "1.png")
    whole = np.asarray(picture(1))
    boxes = [(-10.0, 32.0, 42.0, 40.0), (float("nan"), 0, 1, 1), (0, 0, 0, 5), (-33.0, 0.0, 64.0, 64.0)]
    manifest = build(tmp_path, [{"file": "1.png", "box": box} for box in boxes])
    np.testing.assert_array_equal(read_face(manifest, 0), whole[32:, :32])
    for row in (1, 2, 3):
        with pytest.raises(DataError, match="in an image of 64 x 64 pixels"):
            read_face(manifest, row)


def test_the_likest_copy_in_every_split_is_named(tmp_path: Path) -> None:
    """A row with copies in several splits is listed once for each, and not once for each copy."""
    for name, quality in (("a", 95), ("b", 40), ("c", 94), ("d", 93)):
        picture(5).save(tmp_path / f"{name}.jpg", quality=quality)
    splits = {"b": "train", "a": "train", "c": "test", "d": "test"}
    rows = [{"file": f"{name}.jpg", "split": split} for name, split in splits.items()]
    found = inspect_manifest(build(tmp_path, rows))
    assert listed(found, "near_duplicate") == [(101, 100), (102, 101), (103, 101), (103, 102)]


def test_frames_of_one_video_are_one_line(tmp_path: Path) -> None:
    for number, quality in enumerate((95, 94, 93, 92, 91)):
        picture(5).save(tmp_path / f"{number}.jpg", quality=quality)
    film, other = [("film", "Airheads")], [("film", "Her")]
    rows = [{"file": f"{number}.jpg", "groups": film if number < 4 else other} for number in range(5)]
    rows[3]["split"] = "test"
    found = inspect_manifest(build(tmp_path, rows))
    assert listed(found, "neighbours") == [(101, 100)]
    assert [row["detail"] for row in found.problems.to_pylist() if row["kind"] == "neighbours"] == ["3 frames"]
    # In another split, or of another film, each is a copy.
    assert [row for row, _ in listed(found, "near_duplicate")] == [103, 104, 104]


def test_a_subject_in_three_splits_is_listed_for_two(tmp_path: Path) -> None:
    rows = [{"file": f"{i}.png", "split": split, "subject": "S"} for i, split in enumerate(["a", "b", "a", "c", "b"])]
    found = inspect_manifest(build(tmp_path, rows), pixels=False)
    assert listed(found, "shared_subject") == [(101, 100), (103, 100)]


def test_groups_are_counted(tmp_path: Path) -> None:
    rows = [
        {"file": "0.png", "groups": [("sex", "f"), ("age", "20s")]},
        {"file": "1.png"},
        {"file": "2.png", "groups": [("sex", "f")], "split": "test", "label": "fear"},
        {"file": "3.png", "groups": [("sex", "m")]},
        {"file": "4.png", "groups": []},
    ]
    counted = {
        "age": {"20s": {"train": {"anger": 1}}},
        "sex": {"f": {"train": {"anger": 1}, "test": {"fear": 1}}, "m": {"train": {"anger": 1}}},
    }
    manifest = build(tmp_path, rows)
    assert count_groups(manifest) == counted
    assert count_groups(manifest.select(np.arange(1, 3))) == {"sex": {"f": {"test": {"fear": 1}}}}
    assert count_groups(manifest.select(np.array([1]))) == {}


def test_progress_sees_every_block(clean: Manifest) -> None:
    seen = []

    def track(items, total, what):
        done = list(items)
        seen.append((what, total, len(done)))
        return done

    inspect_manifest(clean, track=track)
    assert seen == [("files", 1, 1), ("images", 1, 1)]


@pytest.mark.shared
@pytest.mark.slow
def test_the_known_faults_of_fer2013(shared_dir: Path) -> None:
    """All faults that its description counts, and each exact duplicate by row."""
    import pyarrow.parquet as pq

    path = shared_dir / "data/fer2013/fer2013.parquet"
    found = inspect_manifest(read_fer2013(path))
    table = pq.read_table(path, columns=["row", "first_row_same_pixels"]).to_pydict()
    pairs = zip(table["row"], table["first_row_same_pixels"], strict=True)
    assert listed(found, "duplicate") == [(row, first) for row, first in pairs if row != first]
    counts = found.count_problems()
    assert counts["duplicate"]["rows"] == 1853
    assert counts["blank"]["rows"] == 12
    assert len({other for _, other in listed(found, "two_labels")}) == 57
    assert found.copies["exact"]["PublicTest"]["Training"] == 280
    assert found.copies["exact"]["PrivateTest"]["Training"] == 288

import csv
import io

import numpy as np
import pytest
from PIL import Image

from motivnet.data.manifest import make_manifest, write_manifest
from motivnet.errors import DataError
from motivnet.evaluation.groups import MAX_GROUPS, group_columns, read_together


def png(seed):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(256, size=(8, 8), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def manifest():
    return make_manifest(
        {
            "path": ["/data/set/a/1.png", "/data/set/a/2.png", "/data/set/b/1.png"],
            "label": ["fear", "anger", "fear"],
            "split": ["test"] * 3,
            "subject": ["KA", None, "KM"],
            "groups": [[("race", "one"), ("age", "old")], [("race", "two")], None],
            "valence": [0.6, 0.1, None],
            "arousal": [0.0, 0.2, 0.1],
            "votes": [[0, 0, 0, 0, 8, 2, 0], [1, 2, 3, 0, 0, 0, 4], [0] * 7],
            "row": [10, 11, 12],
        }
    )


@pytest.fixture
def write(tmp_path):
    def make(*rows):
        path = tmp_path / "groups.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        return path

    return make


def test_columns_of_the_manifest_and_derived_ones(manifest):
    names = ["race", "age", "subject", "split", "agreement", "intensity", "race"]
    assert group_columns(manifest, names) == {
        "race": ["one", "two", None],
        "age": ["old", None, None],
        "subject": ["KA", None, "KM"],
        "split": ["test"] * 3,
        "agreement": ["high", "low", None],
        "intensity": ["strong", "weak", None],
    }


def test_a_column_of_the_manifest_comes_before_a_derived_one():
    manifest = make_manifest(
        {"path": ["a", "b"], "label": ["fear"] * 2, "split": ["x"] * 2, "groups": [[("agreement", "full")], None]}
    )
    assert group_columns(manifest, ["agreement"]) == {"agreement": ["full", None]}


def test_duplicates_of_training_images_are_found_by_their_pixels():
    images = [png(0), png(1), png(2), png(1), png(3)]
    splits = ["Training"] * 3 + ["Test"] * 2
    whole = make_manifest({"image": images, "label": ["fear"] * 5, "split": splits})
    test = whole.split("Test")
    assert group_columns(test, ["duplicate"], whole=whole) == {"duplicate": ["also in training", "only here"]}
    with pytest.raises(DataError, match="one training split; found Test, Training"):
        group_columns(whole, ["duplicate"], whole=whole)
    with pytest.raises(DataError, match="one training split; found Test"):
        group_columns(test, ["duplicate"])


@pytest.mark.parametrize("names", [("10", "12"), ("/data/set/a/1.png", "/data/set/b/1.png"), ("a/1.png", "b/1.png")])
def test_a_table_of_ones_own(manifest, write, names):
    key = "row" if names[0].isdigit() else "path"
    table = write([key, "glasses", "site"], [names[1], "yes", ""], [names[0], " no ", "x"], ["999", "yes", "y"])
    assert group_columns(manifest, ["glasses", "site"], table=table) == {
        "glasses": ["no", None, "yes"],
        "site": ["x", None, None],
    }


def test_a_mark_at_the_start_of_the_file_is_no_part_of_a_name(manifest, tmp_path):
    path = tmp_path / "excel.csv"
    path.write_text("row,glasses\n10,yes\n", encoding="utf-8-sig")
    assert group_columns(manifest, ["glasses"], table=path) == {"glasses": ["yes", None, None]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["name", "glasses"], ["10", "yes"]], "Allowed: one of row and path"),
        ([["row"], ["10"]], "a column for each grouping"),
        ([["row", "a", "a"], ["10", "x", "y"]], "columns"),
        ([["row", "glasses"], ["10", "yes"], ["10", "no"]], "row 1: row '10' occurs twice"),
        ([["row", "glasses"], ["10"]], "row 0: 1 cells, the header has 2"),
        ([["row", "glasses"], ["10", "yes", "no"]], "row 0: 3 cells, the header has 2"),
        ([["row", "glasses"], ["1", "yes"]], "no row of its 1 rows is one of the 3 images"),
        ([["row", "race"], ["10", "x"]], "'race' is both in the data and in"),
    ],
)
def test_a_wrong_table_is_refused(manifest, write, rows, message):
    with pytest.raises(DataError, match=message):
        group_columns(manifest, ["race" if rows[0][-1] == "race" else "glasses"], table=write(*rows))


def test_images_without_paths_are_found_by_row_only(write):
    manifest = make_manifest({"image": [b"x", b"y"], "label": ["fear"] * 2, "split": ["x"] * 2})
    with pytest.raises(DataError, match="keyed by row"):
        group_columns(manifest, ["glasses"], table=write(["path", "glasses"], ["a.png", "yes"]))


def test_a_row_number_of_two_images_is_refused(write):
    manifest = make_manifest({"path": ["a", "b"], "label": ["fear"] * 2, "split": ["x", "y"], "row": [0, 0]})
    with pytest.raises(DataError, match="row 0 is that of two images"):
        group_columns(manifest, ["glasses"], table=write(["row", "glasses"], ["0", "yes"]))


def test_an_unknown_column_is_named(manifest, tmp_path):
    with pytest.raises(DataError, match="unknown group column 'rase'; did you mean 'race'"):
        group_columns(manifest, ["rase"])
    with pytest.raises(DataError, match="cannot be read"):
        group_columns(manifest, ["race"], table=tmp_path / "none.csv")


def test_a_column_of_nothing_or_of_everything_is_refused(manifest):
    count = MAX_GROUPS + 1
    many = make_manifest(
        {
            "path": [str(row) for row in range(count)],
            "label": ["fear"] * count,
            "split": ["x"] * count,
            "groups": [[("id", str(row))] for row in range(count)],
        }
    )
    with pytest.raises(DataError, match="has 1001 values"):
        group_columns(many, ["id"])
    with pytest.raises(DataError, match="'subject' has 0 values"):
        group_columns(many, ["subject"])


def test_data_sets_that_are_read_together_stay_apart(tmp_path):
    for name, label in (("posed", "fear"), ("spontaneous", "anger")):
        rows = {"image": [png(0), png(1)], "label": [label] * 2, "split": ["test"] * 2, "subject": ["KA", None]}
        write_manifest(make_manifest(rows), tmp_path / f"{name}.parquet")
    names = [f"manifest:{tmp_path / 'posed.parquet'}", f"manifest:{tmp_path / 'spontaneous.parquet'}"]
    both = read_together(names)
    assert group_columns(both, ["data"]) == {"data": [names[0]] * 2 + [names[1]] * 2}
    assert both.table["row"].to_pylist() == [0, 1, 2, 3]
    assert both.table["subject"].to_pylist() == [f"{names[0]} KA", None, f"{names[1]} KA", None]
    assert both.table["label"].to_pylist() == ["fear"] * 2 + ["anger"] * 2
    assert read_together(names[:1]).table["subject"].to_pylist() == ["KA", None]

"""AffectNet in both of its releases."""

import numpy as np
import pytest

from motivnet.data.sources.affectnet import COLUMNS, read_affectnet
from motivnet.errors import DataError
from motivnet.images import decode_image

LANDMARKS = ";".join(["12.5"] * 136)
# subDirectory_filePath, face_x, face_y, face_width, face_height, facial_landmarks, expression, valence, arousal
TRAINING = [
    ["1/a.jpg", "10", "20", "100", "110", LANDMARKS, "0", "0.0", "0.25"],
    ["2/b.JPG", "1", "2", "3", "4", LANDMARKS, "7", "-0.5", "-2"],
    ["2/c.jpg", "NULL", "NULL", "NULL", "NULL", LANDMARKS, "10", "-2", "-2"],
    ["2/d.jpg", "1", "2", "3", "4", LANDMARKS, "9", "-2", "-2"],
    ["3/e.jpg", "-1", "-1", "-1", "-1", LANDMARKS, "6", "-1", "1"],
]
VALIDATION = [
    ["4/f.png", "5", "5", "9", "9", LANDMARKS, "8", "0", "0"],
    ["4/g.png", "5", "5", "9", "9", "", "5", "0", "0"],
]


def lists(write, *, training=TRAINING, validation=VALIDATION, header=COLUMNS, folder="Manually_Annotated_file_lists"):
    """Write both lists as published: with a header, and without."""
    rows = [list(header), *training]
    write(f"{folder}/training.csv", "\n".join(",".join(row) for row in rows) + "\n")
    return write(f"{folder}/validation.csv", "\n".join(",".join(row) for row in validation) + "\n").parent.parent


@pytest.mark.parametrize("images", ["Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images"])
def test_the_first_release(write, draw, images):
    root = lists(write)
    draw(f"{images}/1/a.jpg")
    manifest = read_affectnet(root)
    table = manifest.table
    assert table["path"].to_pylist() == [
        str(root / images / name) for name in ("1/a.jpg", "2/b.JPG", "3/e.jpg", "4/g.png")
    ]
    assert table["label"].to_pylist() == ["neutral", "contempt", "anger", "disgust"]
    assert table["split"].to_pylist() == ["train", "train", "train", "val"]
    assert table["box"].to_pylist() == [[10, 20, 100, 110], [1, 2, 3, 4], None, [5, 5, 9, 9]]
    assert table["valence"].to_pylist() == [0.0, -0.5, -1.0, 0.0]
    assert table["arousal"].to_pylist() == [0.25, None, 1.0, 0.0]
    assert table["row"].to_pylist() == [0, 1, 4, 1]
    assert manifest.dropped == {"expression non-face": 1, "expression uncertain": 1, "expression none": 1}
    assert decode_image(manifest.source(0)).shape == (4, 6, 3)


def test_seven_classes_count_contempt(write):
    manifest = read_affectnet(lists(write), classes=7)
    assert len(manifest.labels) == 7
    assert manifest.table["label"].to_pylist() == ["neutral", "anger", "disgust"]
    assert manifest.dropped["label contempt"] == 1
    assert sum(manifest.dropped.values()) + len(manifest) == len(TRAINING) + len(VALIDATION)


def test_one_list_and_images_elsewhere(write, tmp_path):
    root = lists(write)
    manifest = read_affectnet(root / "Manually_Annotated_file_lists" / "validation.csv", root=tmp_path / "elsewhere")
    assert manifest.table["path"].to_pylist() == [str(tmp_path / "elsewhere" / "4/g.png")]
    assert manifest.table["split"].to_pylist() == ["val"]


def test_lists_beside_the_images(write):
    root = lists(write, folder="here") / "here"
    assert read_affectnet(root).table["path"].to_pylist()[0] == str(root / "1/a.jpg")


def row(**changes):
    return [changes.get(name, cell) for name, cell in zip(COLUMNS, TRAINING[0], strict=True)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expression": "11"}, "training.csv, row 1: expression '11'. Allowed: 0 to 10"),
        ({"expression": ""}, "row 1: expression ''"),
        ({"valence": "1.01"}, "row 1: valence '1.01'. Allowed: a number from -1 to 1"),
        ({"valence": "-1.5"}, "row 1: valence '-1.5'"),
        ({"arousal": "high"}, "row 1: arousal 'high'"),
        ({"face_x": "left"}, "row 1: face_x 'left'"),
        ({"face_width": "0"}, "row 1: a box of 0 x 110 pixels"),
        ({"face_width": "-1"}, "row 1: a box of -1 x 110 pixels"),
        ({"subDirectory_filePath": "../../a.jpg"}, "row 1: path '../../a.jpg' names no file inside"),
        (
            {"expression": "3"},
            "a.jpg with box .* is neutral in row 0 of split train and surprise in row 1 of split train",
        ),
    ],
)
def test_a_wrong_row_is_named(write, changes, message):
    with pytest.raises(DataError, match=message):
        read_affectnet(lists(write, training=[TRAINING[0], row(**changes)]))


def test_one_image_under_two_labels_in_two_splits(write):
    with pytest.raises(DataError, match="is neutral in row 0 of split train and fear in row 0 of split val"):
        read_affectnet(lists(write, validation=[row(expression="4")]))


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column(write, column):
    header = [name for name in COLUMNS if name != column]
    with pytest.raises(DataError, match=rf"training.csv: columns \['{column}'\] are missing"):
        read_affectnet(lists(write, training=[], header=header))


def annotate(folder, number, expression, valence="0.5", arousal="-0.25"):
    """Write the arrays of one image, of text and without dimensions, as they are published."""
    annotations = folder / "annotations"
    annotations.mkdir(parents=True, exist_ok=True)
    for name, value in (("exp", expression), ("val", valence), ("aro", arousal)):
        np.save(annotations / f"{number}_{name}.npy", np.array(value))
    np.save(annotations / f"{number}_lnd.npy", np.zeros(136))


@pytest.fixture
def sets(tmp_path, draw):
    for name, number, expression in [("train_set", 2, "1"), ("train_set", 10, "7"), ("val_set", 0, "6")]:
        draw(f"{name}/images/{number}.jpg")
        annotate(tmp_path / name, number, expression)
    return tmp_path


def test_the_later_release(sets):
    annotate(sets / "train_set", 11, "10", "-2", "-2")
    annotate(sets / "train_set", 12, 4, -2.0, 1)
    manifest = read_affectnet(sets)
    table = manifest.table
    train = sets / "train_set" / "images"
    # An image that is not there is the business of `motivnet data inspect`.
    assert table["path"].to_pylist() == [
        *(str(train / f"{number}.jpg") for number in (2, 10, 12)),
        str(sets / "val_set" / "images" / "0.jpg"),
    ]
    assert table["label"].to_pylist() == ["happiness", "contempt", "fear", "anger"]
    assert table["split"].to_pylist() == ["train", "train", "train", "val"]
    assert table["valence"].to_pylist() == [0.5, 0.5, None, 0.5]
    assert table["arousal"].to_pylist() == [-0.25, -0.25, 1.0, -0.25]
    assert table["box"].null_count == 4
    assert manifest.dropped == {"expression non-face": 1}
    assert read_affectnet(sets, classes=7).dropped == {"expression non-face": 1, "label contempt": 1}


def test_annotations_that_are_missing(sets):
    (sets / "train_set" / "annotations" / "10_aro.npy").unlink()
    with pytest.raises(DataError, match=r"10_aro.npy: cannot be read"):
        read_affectnet(sets)
    (sets / "train_set" / "annotations" / "2_exp.npy").unlink()
    with pytest.raises(DataError, match=r"2.jpg: no .*2_exp.npy for it"):
        read_affectnet(sets)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("exp", np.array("11"), "2_exp.npy: expression '11'. Allowed: 0 to 10"),
        ("exp", np.array(["1", "2"]), "2_exp.npy: 2 values. Allowed: one"),
        ("exp", np.array({"a": 1}), "2_exp.npy: cannot be read"),
        ("val", np.array("nan"), "2_val.npy: valence 'nan'"),
        ("aro", np.array("3"), "2_aro.npy: arousal '3'"),
    ],
)
def test_a_wrong_array_is_named(sets, name, array, message):
    np.save(sets / "train_set" / "annotations" / f"2_{name}.npy", array)
    with pytest.raises(DataError, match=message):
        read_affectnet(sets)


def test_a_file_that_is_no_array(sets):
    np.savez(sets / "zip.npz", a=np.zeros(1))
    (sets / "zip.npz").rename(sets / "train_set" / "annotations" / "2_exp.npy")
    with pytest.raises(DataError, match=r"2_exp.npy: cannot be read"):
        read_affectnet(sets)


def test_two_releases_in_one_folder(sets, write):
    lists(write)
    with pytest.raises(DataError, match="Allowed: one release of AffectNet"):
        read_affectnet(sets)


def test_root_is_for_lists(sets):
    with pytest.raises(DataError, match="option root is for the CSV lists"):
        read_affectnet(sets, root=sets)

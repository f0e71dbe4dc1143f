"""RAF-DB: partition list, aligned and original images, attributes and boxes."""

import pytest

from motivnet.data.sources.rafdb import read_rafdb
from motivnet.errors import DataError
from motivnet.images import decode_image

LIST = "basic/EmoLabel/list_patition_label.txt"
NAMES = ["train_00001", "train_00002", "test_0001"]
LANDMARKS = "101.5\t120.25\n" * 5


@pytest.fixture
def basic(draw, write, tmp_path):
    write(LIST, "".join(f"{name}.jpg {code}\n" for name, code in zip(NAMES, (5, 1, 7), strict=True)))
    for name, codes in zip(NAMES, ("0\n2\n4\n", "2\n0\n0\n", "1\n1\n2\n"), strict=True):
        draw(f"basic/Image/aligned/{name}_aligned.jpg")
        draw(f"basic/Image/original/{name}.jpg")
        write(f"basic/Annotation/manual/{name}_manu_attri.txt", LANDMARKS + codes)
        write(f"basic/Annotation/boundingbox/{name}_boundingbox.txt", "10.5 20 110.5 140\n")
    return tmp_path / "basic"


def test_aligned_faces_with_attributes(basic):
    manifest = read_rafdb(basic)
    table = manifest.table
    assert table["path"].to_pylist() == [str(basic / "Image" / "aligned" / f"{name}_aligned.jpg") for name in NAMES]
    assert table["label"].to_pylist() == ["sadness", "surprise", "neutral"]
    assert table["split"].to_pylist() == ["train", "train", "test"]
    assert [dict(groups) for groups in table["groups"].to_pylist()] == [
        {"gender": "male", "race": "Asian", "age": "70+", "setting": "in the wild"},
        {"gender": "unsure", "race": "Caucasian", "age": "0-3", "setting": "in the wild"},
        {"gender": "female", "race": "African-American", "age": "20-39", "setting": "in the wild"},
    ]
    assert table["box"].null_count == 3
    assert decode_image(manifest.source(2)).shape == (4, 6, 3)


def test_original_photographs_have_boxes(basic):
    table = read_rafdb(basic.parent, images="original").table
    assert table["path"].to_pylist() == [str(basic / "Image" / "original" / f"{name}.jpg") for name in NAMES]
    assert table["box"].to_pylist() == [[10.5, 20, 100, 120]] * 3


def test_attributes_may_be_absent_but_not_in_part(basic):
    manual = basic / "Annotation" / "manual"
    (manual / "test_0001_manu_attri.txt").unlink()
    with pytest.raises(DataError, match=r"test_0001_manu_attri.txt: cannot be read"):
        read_rafdb(basic)
    manual.rename(basic / "Annotation" / "away")
    assert read_rafdb(basic).table["groups"][0].as_py() == [("setting", "in the wild")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train_00001.jpg 5\ntrain_00002.jpg 8\n", "list_patition_label.txt, row 1: label '8'. Allowed: 1 to 7"),
        ("train_00001.jpg 0\n", "row 0: label '0'"),
        ("train_00001.jpg happy\n", "row 0: label 'happy'"),
        ("train_00001.jpg\n", "row 0: 1 cells"),
        ("val_00001.jpg 5\n", "row 0: 'val_00001.jpg'. Allowed: names such as train_00001.jpg"),
        ("train_00001.jpg 5\n\ntrain_00001.jpg 4\n", "is sadness in row 0 of split train and happiness in row 2"),
        ("", "list_patition_label.txt: no labelled images"),
    ],
)
def test_a_wrong_list_is_named_with_its_row(basic, write, text, message):
    write(LIST, text)
    with pytest.raises(DataError, match=message):
        read_rafdb(basic)


def test_a_path_that_escapes(basic, write):
    write(LIST, "train_/../../../../x.jpg 5\n")
    (basic / "Annotation" / "manual").rename(basic / "Annotation" / "away")
    with pytest.raises(DataError, match=r"row 0: path .* names no file inside"):
        read_rafdb(basic)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LANDMARKS + "0\n3\n4\n", "train_00001_manu_attri.txt, row 6: race '3'. Allowed: 0 to 2"),
        (LANDMARKS + "0\n2\n", "7 lines. Allowed: 5 of landmarks"),
        ("0\n2\n1\n", "3 lines. Allowed: 5 of landmarks"),
        (LANDMARKS + "0 1\n2\n4\n", "8 lines. Allowed: 5 of landmarks, then one code each"),
    ],
)
def test_wrong_attributes(basic, write, text, message):
    write("basic/Annotation/manual/train_00001_manu_attri.txt", text)
    with pytest.raises(DataError, match=message):
        read_rafdb(basic)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10 20 110", "train_00001_boundingbox.txt: 3 numbers"),
        ("110 20 10 140", "a box of -100 x 120 pixels"),
        ("a b c d", "left 'a'"),
    ],
)
def test_a_wrong_box(basic, write, text, message):
    write("basic/Annotation/boundingbox/train_00001_boundingbox.txt", text)
    with pytest.raises(DataError, match=message):
        read_rafdb(basic, images="original")

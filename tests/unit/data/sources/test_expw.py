"""ExpW: several faces an image, each with its box."""

import pytest

from motivnet.data.sources.expw import read_expw
from motivnet.errors import DataError
from motivnet.images import decode_image

LIST = "label/label.lst"
# name, face, top, left, right, bottom, confidence, expression
TEXT = "a_1.jpg 0 28 113 226 141 22.9362 0\nb_2.jpg 0 150 207 433 376 44.25 4\nb_2.jpg 1 0 0 50 60 80 6\n"


@pytest.mark.parametrize("images", ["image/origin", "data/image/origin"])
def test_faces_with_boxes(draw, write, tmp_path, images):
    file = write(LIST, TEXT)
    draw(f"{images}/a_1.jpg")
    manifest = read_expw(tmp_path)
    table = manifest.table
    assert table["path"].to_pylist() == [str(tmp_path / images / name) for name in ("a_1.jpg", "b_2.jpg", "b_2.jpg")]
    assert table["label"].to_pylist() == ["anger", "sadness", "neutral"]
    assert table["box"].to_pylist() == [[113, 28, 113, 113], [207, 150, 226, 226], [0, 0, 50, 60]]
    assert table["split"].to_pylist() == ["all"] * 3
    assert table["row"].to_pylist() == [0, 1, 2]
    assert decode_image(manifest.source(0)).shape == (4, 6, 3)
    assert read_expw(file).table.equals(table)


def test_faces_that_the_detector_was_unsure_of(write, tmp_path):
    write(LIST, TEXT)
    manifest = read_expw(tmp_path, min_confidence=40)
    assert manifest.table["row"].to_pylist() == [1, 2]
    assert manifest.dropped == {"confidence below 40": 1}


def test_images_elsewhere(write, tmp_path):
    write(LIST, TEXT)
    assert read_expw(tmp_path, root=tmp_path / "x").table["path"][0].as_py() == str(tmp_path / "x" / "a_1.jpg")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c.jpg 0 1 2 3 4 50 7", "label.lst, row 3: expression '7'. Allowed: 0 to 6"),
        ("c.jpg 0 1 2 3 4 50 -1", "row 3: expression '-1'"),
        ("c.jpg 0 1 2 3 4 50", "row 3: 7 cells. Allowed: name, face, top"),
        ("c.jpg 0 1 2 3 x 50 1", "row 3: bottom 'x'. Allowed: a number"),
        ("c.jpg 0 1 5 3 4 50 1", "row 3: a box of -2 x 3 pixels"),
        ("../c.jpg 0 1 2 3 4 50 1", "row 3: path '../c.jpg' names no file inside"),
        ("a_1.jpg 1 28 113 226 141 9 3", "a_1.jpg with box .* is anger in row 0 .* and happiness in row 3"),
    ],
)
def test_a_wrong_row_is_named(write, tmp_path, line, message):
    write(LIST, TEXT + line + "\n")
    with pytest.raises(DataError, match=message):
        read_expw(tmp_path)

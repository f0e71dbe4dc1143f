"""SFEW in the folders that its archives unpack to."""

import pytest
from PIL import Image

from motivnet.data.sources.sfew import read_sfew
from motivnet.errors import DataError
from motivnet.images import decode_image

FRAME = "Airheads_000519240_00000005.png"


def rows(manifest):
    table = manifest.table.select(["split", "label", "groups"]).to_pylist()
    return [(row["split"], row["label"], dict(row["groups"]).get("film")) for row in table]


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("Train", "Val"),
        ("Train_Aligned_Faces", "Val_Aligned_Faces"),
        ("Train/Train_Aligned_Faces", "Val/Val_Aligned_Faces_new/Val_Aligned_Faces"),
        ("SFEW_2.0/Train", "SFEW_2.0/Val/Val"),
    ],
)
def test_archives_in_and_beside_each_other(draw, tmp_path, train, val):
    draw(f"{train}/Angry/{FRAME}")
    draw(f"{val}/Happy/21_Jump_Street_003232200_00000027.png")
    draw(f"{val}/Neutral/frame.png")
    manifest = read_sfew(tmp_path)
    assert rows(manifest) == [
        ("train", "anger", "Airheads"),
        ("val", "happiness", "21_Jump_Street"),
        ("val", "neutral", None),
    ]
    assert manifest.table["subject"].null_count == 3
    assert dict(manifest.table["groups"][0].as_py())["setting"] == "acted"
    assert decode_image(manifest.source(0)).shape == (4, 6, 3)


def enlarge(path):
    """Make an image as large as a frame of a film."""
    Image.new("L", (720, 576), 7).save(path)


def test_faces_or_frames_has_to_be_said_where_both_are(draw, tmp_path):
    enlarge(draw(f"Train/Angry/{FRAME}"))
    draw(f"Train/Train_Aligned_Faces/Angry/{FRAME}")
    with pytest.raises(DataError, match=r"both aligned faces and whole frames"):
        read_sfew(tmp_path)
    assert "Aligned" in read_sfew(tmp_path, images="aligned").table["path"][0].as_py()
    assert "Aligned" not in read_sfew(tmp_path, images="frames").table["path"][0].as_py()


def test_the_test_split_has_no_emotions(draw, tmp_path):
    draw(f"Train_Aligned_Faces/Angry/{FRAME}")
    for number in range(3):
        draw(f"Test/Test_Aligned_Faces/{number}.png")
    manifest = read_sfew(tmp_path)
    assert len(manifest) == 1
    assert manifest.dropped == {"image without an emotion": 3}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"Train/Bored/{FRAME}", "Bored: is not an emotion"),
        (f"Angry/{FRAME}", "Angry: is not in the folder of a split"),
        (f"Other/{FRAME}", "Other: is not an emotion"),
        (f"Train/Val/Angry/{FRAME}", "Val: val inside train"),
        (FRAME, f"{FRAME}: an image in no folder of a label"),
    ],
)
def test_a_folder_that_is_not_as_published(draw, tmp_path, name, message):
    draw(f"Train/Happy/{FRAME}")
    draw(name)
    with pytest.raises(DataError, match=message):
        read_sfew(tmp_path)


def test_aligned_faces_in_the_folders_of_frames(draw, tmp_path):
    draw(f"Train/Angry/{FRAME}")
    (tmp_path / "Val/Sad").mkdir(parents=True)
    (tmp_path / f"Val/Sad/{FRAME}").write_bytes(b"damaged")
    assert len(read_sfew(tmp_path, images="aligned")) == 1
    assert "Val" in read_sfew(tmp_path, images="frames").table["path"][0].as_py()


def test_nothing_of_the_kind_that_was_asked_for(draw, tmp_path):
    enlarge(draw(f"Train/Happy/{FRAME}"))
    with pytest.raises(DataError, match="no labelled images"):
        read_sfew(tmp_path, images="aligned")

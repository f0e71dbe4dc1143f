"""CK+ as published, and in the forms that are passed on."""

import numpy as np
import pytest

from motivnet.data.sources.ckplus import read_ckplus
from motivnet.errors import DataError
from motivnet.images import decode_image

IMAGES, EMOTION = "cohn-kanade-images", "Emotion"


def sequence(draw, write, subject, number, num_frames, emotion=None, *, images=IMAGES, emotions=EMOTION):
    """Write one sequence; the publishers leave an empty folder for one that has no emotion."""
    stem = f"{subject}/{number}/{subject}_{number}"
    for frame in range(1, num_frames + 1):
        draw(f"{images}/{stem}_{frame:08d}.png")
    if emotion is not None:
        return write(f"{emotions}/{stem}_{num_frames:08d}_emotion.txt", f"   {emotion:.7e}\n")
    return None


@pytest.fixture
def tree(draw, write, tmp_path):
    sequence(draw, write, "S005", "001", 4, 3)
    sequence(draw, write, "S010", "002", 5, 7)
    sequence(draw, write, "S010", "003", 3)
    (tmp_path / EMOTION / "S010" / "003").mkdir()
    sequence(draw, write, "S011", "001", 3, 2)
    write(f"{IMAGES}/S010/002/.DS_Store", "")
    write(f"{IMAGES}/.DS_Store", "")
    return tmp_path


def names(manifest):
    return [path.rpartition("/")[2] for path in manifest.table["path"].to_pylist()]


def test_peak_and_first_frames(tree):
    manifest = read_ckplus(tree)
    assert names(manifest) == [
        "S005_001_00000001.png",
        "S005_001_00000004.png",
        "S010_002_00000001.png",
        "S010_002_00000005.png",
        "S011_001_00000001.png",
        "S011_001_00000003.png",
    ]
    table = manifest.table
    assert table["label"].to_pylist() == ["neutral", "disgust", "neutral", "surprise", "neutral", "contempt"]
    assert table["subject"].to_pylist() == ["S005", "S005", "S010", "S010", "S011", "S011"]
    assert table["split"].unique().to_pylist() == ["all"]
    assert dict(table["groups"][3].as_py()) == {"sequence": "S010_002", "setting": "posed", "frame": "peak"}
    assert manifest.dropped == {"sequence without an emotion": 1}
    assert len(manifest.labels) == 8
    assert decode_image(manifest.source(0)).shape == (4, 6, 3)


def test_more_peak_frames_and_no_neutral_ones(tree):
    manifest = read_ckplus(tree, peak_frames=2, neutral=False)
    assert names(manifest)[:4] == [
        "S005_001_00000003.png",
        "S005_001_00000004.png",
        "S010_002_00000004.png",
        "S010_002_00000005.png",
    ]
    with pytest.raises(DataError, match=r"S005_001_00000004_emotion.txt: a sequence of 4 frames, 4 found, for 4"):
        read_ckplus(tree, peak_frames=4)
    with pytest.raises(DataError, match="peak_frames of ckplus: 0"):
        read_ckplus(tree, peak_frames=0)


def test_the_folders_that_the_archives_unpack_to(draw, write, tmp_path):
    outer = {"images": f"extended-cohn-kanade-images/{IMAGES}", "emotions": f"Emotion_labels/{EMOTION}"}
    sequence(draw, write, "S005", "001", 4, 5, **outer)
    assert read_ckplus(tmp_path).table["label"].to_pylist() == ["neutral", "happiness"]


def test_images_that_are_missing_are_named_all_the_same(write, tree):
    write("Emotion/S999/001/S999_001_00000018_emotion.txt", "   1.0000000e+00\n")
    assert names(read_ckplus(tree))[-2:] == ["S999_001_00000001.png", "S999_001_00000018.png"]
    expected = [f"S999_001_000000{number}.png" for number in ("01", "17", "18")]
    assert names(read_ckplus(tree, peak_frames=2))[-3:] == expected


def test_frames_need_not_be_numbered_from_one(tree):
    (tree / IMAGES / "S005" / "001" / "S005_001_00000001.png").unlink()
    assert names(read_ckplus(tree))[:2] == ["S005_001_00000002.png", "S005_001_00000004.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("   8.0000000e+00\n", r"S005_001_00000004_emotion.txt, row 0: emotion '8'. Allowed: 0 to 7"),
        ("   1.5000000e+00\n", "row 0: emotion '1.5'. Allowed: 0 to 7"),
        ("angry\n", "row 0: emotion 'angry'"),
        ("", "0 values. Allowed: one"),
        ("1 2\n", "2 values. Allowed: one"),
    ],
)
def test_a_wrong_emotion_is_named(tree, write, text, message):
    write("Emotion/S005/001/S005_001_00000004_emotion.txt", text)
    with pytest.raises(DataError, match=message):
        read_ckplus(tree)


def test_emotion_files_that_are_not_as_published(tree, write):
    extra = write("Emotion/S005/001/S005_001_00000005_emotion.txt", "3")
    with pytest.raises(DataError, match="the sequence has a label already"):
        read_ckplus(tree)
    extra.unlink()
    (tree / "Emotion/S005/001/S005_001_00000004_emotion.txt").rename(tree / "Emotion/S005/001/peak_emotion.txt")
    with pytest.raises(DataError, match=r"peak_emotion.txt: the name is not that of a frame"):
        read_ckplus(tree)


def test_images_without_their_labels(draw, write, tmp_path):
    sequence(draw, write, "S005", "001", 4)
    with pytest.raises(DataError, match="no folder Emotion"):
        read_ckplus(tmp_path)


def test_the_folder_form(draw, tmp_path):
    draw("CK+48/anger/S010_004_00000017.png")
    draw("CK+48/contempt/S138_008_00000007.png")
    manifest = read_ckplus(tmp_path / "CK+48")
    assert manifest.table["label"].to_pylist() == ["anger", "contempt"]
    assert manifest.table["subject"].to_pylist() == ["S010", "S138"]
    assert manifest.table["split"].to_pylist() == ["all", "all"]
    assert ("sequence", "S010_004") in manifest.table["groups"][0].as_py()
    with pytest.raises(DataError, match="options peak_frames and neutral are for the sequences"):
        read_ckplus(tmp_path / "CK+48", peak_frames=3)
    draw("CK+48/anger/face.png")
    with pytest.raises(DataError, match=r"face.png: the name is not that of a frame"):
        read_ckplus(tmp_path / "CK+48")


def test_the_csv_form(write):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 48, 48))
    texts = [" ".join(map(str, image.ravel())) for image in pixels]
    path = write("ck.csv", f"emotion,pixels,Usage\n6,{texts[0]},Training\n7,{texts[1]},PublicTest\n")
    manifest = read_ckplus(path)
    assert manifest.table["label"].to_pylist() == ["neutral", "contempt"]
    assert manifest.table["split"].to_pylist() == ["all", "all"]
    assert [dict(groups)["usage"] for groups in manifest.table["groups"].to_pylist()] == ["Training", "PublicTest"]
    np.testing.assert_array_equal(decode_image(manifest.source(1))[:, :, 0], pixels[1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("emotion,pixels\n0,1 2\n", r"columns \['Usage'\] are missing"),
        ("emotion,pixels,Usage\n8,1 2,Training\n", "row 0: emotion '8'. Allowed: 0 to 7"),
        ("emotion,pixels,Usage\n-1,1 2,Training\n", "row 0: emotion '-1'"),
        ("emotion,pixels,Usage\n0,1 2,Training\n", "row 0: expected 2304 pixels"),
    ],
)
def test_a_wrong_csv(write, text, message):
    with pytest.raises(DataError, match=message):
        read_ckplus(write("ck.csv", text))

"""DFEW, MAFW and FERV39k: miniature data sets in the published layouts, as public documentation gives them."""

import pytest

from motivnet.data.sources.clip_lists import read_dfew, read_ferv39k, read_mafw
from motivnet.data.sources.named import read_source
from motivnet.errors import DataError


def columns(manifest, *names):
    return list(zip(*(manifest.table[name].to_pylist() for name in names), strict=True))


@pytest.fixture
def dfew(write):
    for fold in range(1, 6):
        write(
            f"EmoLabel_DataSplit/test(single-labeled)/set_{fold}.csv",
            f"video_name,label\n{fold},{fold}\n16{fold}42,7\n",
        )


@pytest.mark.parametrize(
    ("clips", "path"),
    [
        ("aligned", "Clip/clip_224x224/00001"),
        ("16-frames", "Clip/clip_224x224_16f/00001"),
        ("original", "Clip/original/00001.mp4"),
    ],
)
def test_dfew(dfew, tmp_path, clips, path):
    manifest = read_dfew(tmp_path, clips=clips)
    found = columns(manifest, "path", "label", "fold", "split", "start_s")
    assert found[0] == (str(tmp_path / path), "happiness", "1", "all", 0.0)
    assert [label for _, label, *_ in found[::2]] == ["happiness", "sadness", "neutral", "anger", "surprise"]
    assert {label for _, label, *_ in found[1::2]} == {"fear"}
    assert [fold for _, _, fold, *_ in found] == list("1122334455")


def test_a_fold_of_dfew(dfew, tmp_path):
    manifest = read_source(f"dfew:{tmp_path}?fold=3")
    assert [path[-5:] for (path,) in columns(manifest.split("test"), "path")] == ["00003", "16342"]
    assert len(manifest.split("train")) == 8


@pytest.mark.parametrize(
    ("folder", "name"), [("data/clips", "00151.mp4"), ("data/frames", "00151"), (None, "00151.mp4")]
)
def test_mafw(write, tmp_path, folder, name):
    if folder:
        (tmp_path / folder).mkdir(parents=True)
    for fold in range(1, 6):
        lines = f"0015{fold}.mp4 anger\n1015{fold}.mp4 helplessness\n"
        write(f"Train & Test Set/single/no_caption/set_{fold}/test.txt", lines)
    manifest = read_mafw(tmp_path)
    assert columns(manifest, "path", "label", "fold")[0] == (
        str(tmp_path / (folder or "data/clips") / name),
        "anger",
        "1",
    )
    assert len(manifest.labels) == 11
    assert len(manifest) == 10


def test_ferv39k(write, tmp_path):
    write("4_setups/All_scenes/train_All.csv", "Action/Happy/0267 Happy\nCrime/Fear/0003 Fear\n")
    write("4_setups/All_scenes/test_All.csv", "Action/Angry/0268 Angry\n")
    manifest = read_ferv39k(tmp_path)
    faces = tmp_path / "2_ClipsforFaceCrop"
    assert columns(manifest, "path", "label", "split") == [
        (str(faces / "Action/Happy/0267"), "happiness", "train"),
        (str(faces / "Crime/Fear/0003"), "fear", "train"),
        (str(faces / "Action/Angry/0268"), "anger", "test"),
    ]
    assert [dict(groups)["scene"] for (groups,) in columns(manifest, "groups")] == ["Action", "Crime", "Action"]
    with pytest.raises(DataError, match=r"no rows in fold '1'\. Allowed: none"):
        read_source(f"ferv39k:{tmp_path}?fold=1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Action/Happy/0267 Bored\n", "train_All.csv, row 0: unknown label 'Bored'"),
        ("Action/Happy/0267\n", r"train_All.csv, row 0: 1 values\. Allowed: clip and label"),
    ],
)
def test_a_line_that_is_not_as_published(write, tmp_path, text, message):
    write("4_setups/All_scenes/train_All.csv", text)
    with pytest.raises(DataError, match=message):
        read_ferv39k(tmp_path)


def test_a_code_that_dfew_does_not_have(write, tmp_path):
    write("EmoLabel_DataSplit/test(single-labeled)/set_1.csv", "video_name,label\n1,0\n")
    with pytest.raises(DataError, match=r"set_1.csv, row 1: label '0'\. Allowed: 1 to 7"):
        read_dfew(tmp_path)

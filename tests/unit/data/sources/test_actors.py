"""RAVDESS and CREMA-D: what their file names say."""

from collections import Counter

import pytest

from motivnet.data.sources.actors import read_cremad, read_ravdess
from motivnet.data.sources.named import read_source
from motivnet.errors import DataError


def rows(manifest):
    columns = ["label", "subject", "fold", "start_s", "end_s", "groups"]
    return [{**row, "groups": dict(row["groups"])} for row in manifest.table.select(columns).to_pylist()]


def test_the_codes_of_ravdess(write, tmp_path):
    write("Actor_12/01-01-06-02-02-01-12.mp4", "")
    write("Actor_12/02-01-06-02-02-01-12.mp4", "")
    write("Actor_12/03-01-06-02-02-01-12.wav", "")
    write("Actor_01/02-02-01-01-01-02-01.mp4", "")
    manifest = read_ravdess(tmp_path)
    assert rows(manifest) == [
        {
            "label": "fear",
            "subject": "12",
            "fold": "1",
            "start_s": 0.0,
            "end_s": None,
            "groups": {
                "channel": "speech",
                "intensity": "strong",
                "statement": "dogs",
                "gender": "female",
                "setting": "acted",
            },
        },
        {
            "label": "neutral",
            "subject": "01",
            "fold": "1",
            "start_s": 0.0,
            "end_s": None,
            "groups": {
                "channel": "song",
                "intensity": "normal",
                "statement": "kids",
                "gender": "male",
                "setting": "acted",
            },
        },
    ]
    assert manifest.dropped == {".wav": 1, "the same without sound": 1}
    assert manifest.clips


def test_what_becomes_of_calm(write, tmp_path):
    for emotion in range(1, 9):
        write(f"01-01-{emotion:02}-01-01-01-03.mp4", "")
    emotions = ["neutral", "happiness", "sadness", "anger", "fear", "disgust", "surprise"]
    left_out = read_ravdess(tmp_path)
    assert left_out.table["label"].to_pylist() == emotions
    assert left_out.dropped == {"calm": 1}
    assert read_ravdess(tmp_path, calm="neutral").table["label"].to_pylist() == ["neutral", *emotions]
    own = read_source(f"ravdess:{tmp_path}?calm=own")
    assert own.table["label"].to_pylist() == ["neutral", "calm", *emotions[1:]]
    assert own.labels.names[-1] == "calm"


@pytest.mark.parametrize("folds", [2, 5, 6])
def test_folds_of_ravdess_share_no_actor_and_have_men_and_women(write, tmp_path, folds):
    for actor in range(1, 25):
        write(f"01-01-03-01-01-01-{actor:02}.mp4", "")
    found = rows(read_ravdess(tmp_path, folds=folds))
    assert {row["fold"] for row in found} == {str(number + 1) for number in range(folds)}
    counts = Counter((row["fold"], row["groups"]["gender"]) for row in found)
    assert all(counts[fold, "male"] == counts[fold, "female"] > 0 for fold, _ in counts)


def test_the_codes_of_cremad(write, tmp_path):
    for name in ("1001_DFA_ANG_XX", "1002_IEO_SAD_HI", "1040_ITH_SAD_X", "1007_IEO_HAP_MD"):
        write(f"VideoFlash/{name}.flv", "")
    manifest = read_cremad(tmp_path)
    assert [(row["label"], row["subject"], row["fold"], row["groups"]["intensity"]) for row in rows(manifest)] == [
        ("anger", "1001", "1", "unspecified"),
        ("sadness", "1002", "2", "high"),
        ("happiness", "1007", "2", "medium"),
        ("sadness", "1040", "5", "unspecified"),
    ]


def test_one_fold_is_the_test(write, tmp_path):
    for actor in range(1001, 1011):
        write(f"{actor}_DFA_ANG_XX.flv", "")
    manifest = read_source(f"cremad:{tmp_path}?fold=2&folds=5")
    assert {row["subject"] for row in manifest.split("test").table.to_pylist()} == {"1002", "1007"}
    assert len(manifest.split("train")) == 8
    with pytest.raises(DataError, match=r"no rows in fold '6'\. Allowed: 1, 2, 3, 4, 5"):
        read_source(f"cremad:{tmp_path}?fold=6")


@pytest.mark.parametrize(
    ("read", "name", "message"),
    [
        (read_ravdess, "01-01-09-01-01-01-01.mp4", "the name is not as published, such as 01-01-06-01-02-01-12.mp4"),
        (read_ravdess, "01-01-01-01-01-01-25.mp4", "the name is not as published"),
        (read_cremad, "1001_DFA_BOR_XX.flv", "the name is not as published, such as 1001_DFA_ANG_XX.flv"),
        (read_cremad, "notes.txt", "no labelled images"),
    ],
)
def test_a_name_that_is_not_as_published(write, tmp_path, read, name, message):
    write(name, "")
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_a_single_fold(tmp_path):
    with pytest.raises(DataError, match=r"option folds: 1\. Allowed: 2 or more"):
        read_cremad(tmp_path, folds=1)

"""The reader of FER-2013, in all the forms that it is published in."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from motivnet.data.clean import clean_training, leave_out_repeated, repeated_rows
from motivnet.data.manifest import make_manifest, read_manifest, write_manifest
from motivnet.data.sources.fer2013 import encode_pixels, read_fer2013
from motivnet.data.sources.named import read_source
from motivnet.errors import DataError
from motivnet.images import decode_image
from motivnet.labels import WITH_CONTEMPT

ROWS = [(0, "Training"), (3, "Training"), (6, "PublicTest"), (1, "PrivateTest")]


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 48), dtype=np.uint8)


def write_csv(path: Path, header: list[str], rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([[row[name.strip()] for name in header] for row in rows])
    return path


def csv_rows() -> list[dict[str, object]]:
    return [
        {"emotion": label, "Usage": usage, "pixels": " ".join(map(str, pixels(i).ravel()))}
        for i, (label, usage) in enumerate(ROWS)
    ]


@pytest.mark.parametrize("header", [["emotion", "pixels", "Usage"], ["emotion", " Usage", " pixels"]])
def test_kaggle_csv(tmp_path: Path, header: list[str]) -> None:
    manifest = read_fer2013(write_csv(tmp_path / "fer.csv", header, csv_rows()))
    assert manifest.table["label"].to_pylist() == ["anger", "happiness", "neutral", "disgust"]
    assert manifest.table["split"].to_pylist() == [usage for _, usage in ROWS]
    for row in range(4):
        image = decode_image(manifest.source(row))
        np.testing.assert_array_equal(image, np.repeat(pixels(row)[:, :, None], 3, axis=2))


def test_ferplus_votes_beside_the_csv(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "fer.csv", ["emotion", "pixels", "Usage"], csv_rows())
    names = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF"]
    votes = [{name: i + j for j, name in enumerate(names)} for i in range(4)]
    write_csv(tmp_path / "fer2013new.csv", names, votes)
    found = read_fer2013(path).votes
    # Our order: neutral, happiness, sadness, surprise, fear, disgust, anger.
    np.testing.assert_array_equal(found[1], [1, 2, 4, 3, 7, 6, 5])
    write_csv(tmp_path / "fer2013new.csv", names, votes[:3])
    with pytest.raises(DataError, match="3 rows, the CSV next to it has 4"):
        read_fer2013(path)


def test_labels_by_the_majority_of_the_votes_for_an_emotion(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "fer.csv", ["emotion", "pixels", "Usage"], csv_rows())
    with pytest.raises(DataError, match="labels=majority needs FERPlus' votes"):
        read_fer2013(path, labels="majority")
    names = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF"]
    votes = [
        {"fear": 6, "anger": 4},  # labelled anger
        {"happiness": 5, "neutral": 5},  # exactly half
        {"sadness": 3, "fear": 1, "contempt": 4, "unknown": 2},  # of the votes for one of the seven, more than half
        {"unknown": 10},
    ]
    write_csv(tmp_path / "fer2013new.csv", names, [dict.fromkeys(names, 0) | row for row in votes])
    manifest = read_fer2013(path, labels="majority")
    assert manifest.table["label"].to_pylist() == ["fear", "sadness"]
    assert manifest.table["split"].to_pylist() == ["Training", "PublicTest"]
    assert manifest.table["row"].to_pylist() == [0, 2]
    np.testing.assert_array_equal(manifest.votes.sum(1), [10, 4])
    assert manifest.dropped == {"FERPlus: no emotion has more than half of the votes": 2}
    named = read_source(f"fer2013:{path}?labels=majority")
    assert named.table["label"].to_pylist() == ["fear", "sadness"]
    (tmp_path / "folder/train/happy").mkdir(parents=True)
    with pytest.raises(DataError, match=r"a folder has no votes\. Allowed with labels=majority: a Parquet"):
        read_fer2013(tmp_path / "folder", labels="majority")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"emotion": "7"}, "row 1: emotion '7'"),
        ({"emotion": ""}, "row 1: emotion ''"),
        ({"Usage": "Test"}, "row 1: Usage 'Test'"),
        ({"pixels": "1 2 3"}, "row 1: expected 2304 pixels from 0 to 255, found 3"),
        ({"pixels": "x " * 2304}, "row 1: expected 2304 pixels"),
        ({"pixels": "256 " * 2304}, "row 1: expected 2304 pixels"),
    ],
)
def test_a_wrong_cell_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    rows = csv_rows()
    rows[1] |= change
    with pytest.raises(DataError, match=message):
        read_fer2013(write_csv(tmp_path / "fer.csv", ["emotion", "pixels", "Usage"], rows))


def test_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_fer2013(tmp_path / "absent.csv")
    with pytest.raises(DataError, match=r"columns \['pixels'\] are missing"):
        read_fer2013(write_csv(tmp_path / "fer.csv", ["emotion", "Usage"], csv_rows()))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_fer2013(tmp_path / "broken.parquet")


def test_image_folders(tmp_path: Path) -> None:
    for i, place in enumerate(["train/happy", "train/angry", "test/neutral"]):
        (tmp_path / place).mkdir(parents=True)
        Image.fromarray(pixels(i)).save(tmp_path / place / "1.png")
    manifest = read_fer2013(tmp_path)
    found = list(zip(manifest.table["split"].to_pylist(), manifest.table["label"].to_pylist(), strict=True))
    assert found == [("test", "neutral"), ("train", "anger"), ("train", "happiness")]
    (tmp_path / "train" / "bored").mkdir()
    with pytest.raises(DataError, match="bored: is not a label"):
        read_fer2013(tmp_path)


def test_cleaning_takes_out_of_training_what_recurs_and_what_is_black(tmp_path: Path) -> None:
    rows = csv_rows()
    black = " ".join(["0"] * 2304)
    rows.append({"emotion": 2, "Usage": "Training", "pixels": rows[2]["pixels"]})  # a PublicTest image
    rows.append({"emotion": 2, "Usage": "Training", "pixels": black})
    rows.append({"emotion": 2, "Usage": "PrivateTest", "pixels": rows[0]["pixels"]})  # a Training image
    manifest = read_fer2013(write_csv(tmp_path / "fer.csv", ["emotion", "pixels", "Usage"], rows))
    train, report = clean_training(manifest, "Training")
    assert (report.rows, report.black, report.in_test, report.kept) == (4, 1, 2, 1)
    assert train.table["row"].to_pylist() == [1]
    assert repeated_rows(manifest.split("PrivateTest"), manifest.split("Training")).tolist() == [False, True]


def test_leaving_out_what_training_has_seen() -> None:
    images = [encode_pixels(" ".join(map(str, pixels(seed).ravel())), "") for seed in (0, 1, 2, 0, 0)]
    splits = ["Training", "Training", "PrivateTest", "PrivateTest", "PublicTest"]
    manifest = make_manifest({"image": images, "label": ["fear"] * 5, "split": splits})
    unseen = leave_out_repeated(manifest, "PrivateTest", "Training")
    assert unseen.table["row"].to_pylist() == [2]
    assert unseen.dropped == {"pixels that occur in Training": 1}
    assert leave_out_repeated(manifest, "PrivateTest", "PublicTest").table["row"].to_pylist() == [2]
    with pytest.raises(DataError, match="every image of PublicTest also occurs in Training"):
        leave_out_repeated(manifest, "PublicTest", "Training")
    with pytest.raises(DataError, match="no rows in split 'train'"):
        leave_out_repeated(manifest, "PrivateTest", "train")


def test_ferplus_labels_are_the_majority_of_all_votes(tmp_path: Path) -> None:
    names = [*WITH_CONTEMPT, "unknown", "not_face"]
    winners = [{"anger": 6, "neutral": 4}, {"contempt": 5, "fear": 3}, {"unknown": 9}, {"sadness": 5, "fear": 5}, {}]
    table = {
        "usage": ["Training"] * 5,
        "label": ["happiness"] * 5,
        "png": [encode_pixels(" ".join(map(str, pixels(seed).ravel())), "") for seed in range(5)],
        **{f"votes_{name}": [votes.get(name, 0) for votes in winners] for name in names},
    }
    pq.write_table(pa.table(table), tmp_path / "fer.parquet")
    manifest = read_source(f"fer2013:{tmp_path / 'fer.parquet'}?labels=ferplus")
    assert manifest.table["label"].to_pylist() == ["anger", "contempt"]
    assert manifest.table["row"].to_pylist() == [0, 1]
    assert manifest.votes[0].tolist() == [4, 0, 0, 0, 0, 0, 6, 0]
    assert sorted(manifest.dropped.values()) == [1, 2]
    with pytest.raises(DataError, match="a folder has no votes"):
        read_fer2013(tmp_path, labels="ferplus")


def test_ferplus_labels_of_a_csv(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "fer2013.csv", ["emotion", "pixels", "Usage"], csv_rows())
    with pytest.raises(DataError, match=r"needs FERPlus' votes.* fer2013new\.csv next to it"):
        read_fer2013(path, labels="ferplus")
    names = [*WITH_CONTEMPT, "unknown", "NF"]
    votes = [dict.fromkeys(names, "0") | {"contempt": "7"} for _ in csv_rows()]
    write_csv(tmp_path / "fer2013new.csv", names, votes)
    assert set(read_fer2013(path, labels="ferplus").table["label"].to_pylist()) == {"contempt"}


def test_manifest_survives_its_file(tmp_path: Path) -> None:
    manifest = read_fer2013(write_csv(tmp_path / "fer.csv", ["emotion", "pixels", "Usage"], csv_rows()))
    write_manifest(manifest, tmp_path / "manifest.parquet")
    again = read_manifest(tmp_path / "manifest.parquet")
    assert again.table.equals(manifest.table)
    assert again.counts()["Training"]["anger"] == 1
    with pytest.raises(DataError, match=r"no rows in split 'Test'. Allowed: PrivateTest, PublicTest, Training"):
        again.split("Test")


@pytest.mark.parametrize(
    ("metadata", "column", "message"),
    [
        ({b"motivnet.labels": b"fear\nfear"}, {}, "is no manifest: a label set needs"),
        ({b"motivnet.labels": b"\xff"}, {}, "is no manifest: 'utf-8' codec"),
        ({b"motivnet.dropped": b"["}, {}, "is no manifest"),
        ({b"motivnet.dropped": b"[" * 100_000}, {}, "is no manifest: nested more than 100 deep"),
        ({b"motivnet.dropped": b'{"a": "b"}'}, {}, "what it left out are no numbers"),
        ({}, {"box": ["here"] * 2}, "is no manifest"),
    ],
)
def test_a_manifest_of_somebody_else(
    metadata: dict[bytes, bytes], column: dict[str, list[Any]], message: str, tmp_path: Path
) -> None:
    made = make_manifest({"label": ["fear"] * 2, "split": ["all"] * 2, "path": ["a.png", "b.png"]})
    write_manifest(made, tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    for name, values in column.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, **metadata}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path / "x.parquet")


@pytest.mark.slow
@pytest.mark.shared
def test_the_published_counts(shared_dir: Path) -> None:
    """The counts and faults that the data set is known to have, from its own description."""
    manifest = read_fer2013(shared_dir / "data/fer2013/fer2013.parquet")
    assert {split: sum(counts.values()) for split, counts in manifest.counts().items()} == {
        "Training": 28_709,
        "PublicTest": 3_589,
        "PrivateTest": 3_589,
    }
    assert manifest.counts()["PrivateTest"]["disgust"] == 55
    assert repeated_rows(manifest.split("PublicTest"), manifest.split("Training")).sum() == 280
    assert repeated_rows(manifest.split("PrivateTest"), manifest.split("Training")).sum() == 288
    image = Image.open(io.BytesIO(manifest.source(0)))  # type: ignore[arg-type]
    assert image.size == (48, 48)

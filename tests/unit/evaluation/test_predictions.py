import csv
import dataclasses
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from motivnet.data.manifest import make_manifest
from motivnet.errors import DataError, OutputError
from motivnet.evaluation.external_predictions import read_predictions
from motivnet.evaluation.predictions import UNANSWERED, Predictions, Protocol
from motivnet.labels import EMOTIONS, WITH_CONTEMPT
from motivnet.preprocess import Box

LABELS = ["happiness", "fear", "neutral", "anger"]


def manifest_of(labels=LABELS, label_set=EMOTIONS, **columns):
    paths = [f"/data/set/{label}/{i}.png" for i, label in enumerate(labels)]
    return make_manifest({"path": paths, "label": labels, "split": ["test"] * len(labels), **columns}, label_set)


def protocol_of(manifest, **changes):
    settings = {"model": "tiny", "data": "folder:set", "data_fingerprint": "abc", "n": len(manifest)}
    return Protocol(**settings | {"labels": manifest.labels.names, "detection": "none: images are crops"} | changes)


def probs_of(*classes, num_classes=7, top=0.4):
    """Rows of probabilities with the given largest class; NaN for None."""
    rows = np.full((len(classes), num_classes), (1 - top) / (num_classes - 1))
    for row, chosen in enumerate(classes):
        if chosen is None:
            rows[row] = np.nan
        else:
            rows[row, chosen] = top
    return rows


def predictions_of(manifest, *classes, status=None, **changes):
    status = status or tuple("no_face" if chosen is None else "ok" for chosen in classes)
    return Predictions(
        manifest=manifest, probs_BC=probs_of(*classes), status=status, protocol=protocol_of(manifest), **changes
    )


def write_csv(path, header, *rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


class TestPredictions:
    def test_the_most_probable_class_is_the_answer(self):
        predictions = predictions_of(manifest_of(), 1, None, 0, 6)
        np.testing.assert_array_equal(predictions.preds_B, [1, -1, 0, 6])
        np.testing.assert_array_equal(predictions.answered_B, [True, False, True, True])
        np.testing.assert_array_equal(predictions.target_B, [1, 4, 0, 6])
        assert predictions.labels == EMOTIONS

    def test_select_keeps_what_belongs_together(self):
        faces, errors = {0: Box(0, 0, 9, 9), 3: Box(1, 2, 3, 4)}, {1: "damaged"}
        whole = predictions_of(
            manifest_of(), 1, None, 0, 6, status=("ok", "unreadable", "ok", "ok"), faces=faces, errors=errors
        )
        part = whole.select(np.array([3, 1]))
        assert (part.faces, part.errors, part.status) == ({0: Box(1, 2, 3, 4)}, {1: "damaged"}, ("ok", "unreadable"))
        np.testing.assert_array_equal(part.preds_B, [6, -1])
        np.testing.assert_array_equal(part.target_B, [6, 4])
        np.testing.assert_array_equal(whole.select(whole.answered_B).preds_B, [1, 0, 6])

    def test_refuses_parts_that_do_not_fit(self):
        manifest = manifest_of()
        good = predictions_of(manifest, 1, 2, 3, 4)
        changes = {
            "for 4 images and 7 labels": {"probs_BC": probs_of(1, 2, 3)},
            "3 statuses for 4 images": {"status": ("ok",) * 3},
            "status 'fine'. Allowed: ok": {"status": ("ok", "fine", "ok", "ok")},
            "sums to 0.8": {"probs_BC": probs_of(1, 2, 3, 4) * 0.8},
            "rows hold NaN": {"probs_BC": probs_of(1, None, 3, 4)},
            "restrict the data first": {"manifest": manifest_of(label_set=WITH_CONTEMPT)},
        }
        for message, change in changes.items():
            with pytest.raises(DataError, match=message):
                dataclasses.replace(good, **change)


class TestOwnFile:
    def test_comes_back_as_it_was(self, tmp_path):
        manifest = manifest_of()
        before = predictions_of(
            manifest,
            *(1, None, 0, None),
            status=("ok", "unreadable", "ok", "no_face"),
            errors={1: "damaged"},
            faces={0: Box(1.5, 2, 3, 4)},
        )
        before.write(tmp_path / "p.parquet")
        after = read_predictions(tmp_path / "p.parquet", manifest)
        np.testing.assert_array_equal(after.probs_BC, before.probs_BC)
        assert (after.status, after.errors, after.faces) == (before.status, before.errors, before.faces)
        assert after.protocol == dataclasses.replace(before.protocol, data_fingerprint=manifest.fingerprint())
        assert after.has_probs

    def test_has_one_readable_row_an_image(self, tmp_path):
        predictions_of(manifest_of(), 1, None, 0, 6).write(tmp_path / "p.parquet")
        rows = pq.read_table(tmp_path / "p.parquet").to_pylist()
        assert [row["pred"] for row in rows] == ["happiness", None, "neutral", "anger"]
        assert [row["label"] for row in rows] == LABELS
        assert rows[1]["prob_fear"] is None
        assert rows[0]["prob_happiness"] == 0.4
        assert rows[2]["path"] == "/data/set/neutral/2.png"

    def test_answers_without_probabilities_come_back_too(self, tmp_path):
        manifest = manifest_of()
        write_csv(tmp_path / "a.csv", ["row", "pred"], [0, "happy"], [1, "fear"], [2, ""], [3, "sad"])
        read_predictions(tmp_path / "a.csv", manifest).write(tmp_path / "b.parquet")
        after = read_predictions(tmp_path / "b.parquet", manifest)
        assert not after.has_probs
        np.testing.assert_array_equal(after.preds_B, [1, 4, -1, 2])
        assert after.protocol.model == "a.csv"

    def test_a_folder_that_does_not_exist_is_an_error(self, tmp_path):
        with pytest.raises(OutputError, match=r"nowhere/p\.parquet: cannot be written"):
            predictions_of(manifest_of(), 1, 1, 1, 1).write(tmp_path / "nowhere" / "p.parquet")


class TestForeignFile:
    def test_rows_in_any_order_with_synonyms(self, tmp_path):
        header = ["row", *("happy", "prob_sad")]
        path = write_csv(tmp_path / "p.csv", [*header, "note"], [1, 0.1, 0.9, "x"], [0, 0.75, 0.25, "y"])
        with pytest.raises(DataError, match="one label alone"):
            read_predictions(path, manifest_of(["happiness", "sadness"]))
        path = write_csv(tmp_path / "p.csv", ["row", "Sad", "happy", "note"], [1, 0.9, 0.1, "x"], [0, 0.25, 0.75, "y"])
        found = read_predictions(path, manifest_of(["happiness", "sadness"]), data="folder:set", split="test")
        assert found.labels.names == ("happiness", "sadness")
        np.testing.assert_array_equal(found.probs_BC, [[0.75, 0.25], [0.1, 0.9]])
        protocol = found.protocol
        assert (protocol.model, protocol.data, protocol.split, protocol.n) == ("p.csv", "folder:set", "test", 2)
        assert protocol.detection == "unknown: answers of another tool"
        assert re.fullmatch("m[0-9a-f]{12}", protocol.model_fingerprint)
        assert (protocol.calibration, protocol.preprocessing) == (None, None)

    @pytest.mark.parametrize(
        "keys",
        [
            ["/data/set/happiness/0.png", "/data/set/fear/1.png"],
            ["happiness/0.png", "./fear/1.png"],
            ["0.png", "1.png"],
            ["D:\\other\\0.png", "D:\\other\\1.png"],
        ],
        ids=["whole", "below the root", "name", "another machine"],
    )
    def test_rows_by_path(self, tmp_path, keys):
        path = write_csv(tmp_path / "p.csv", ["path", "pred"], [keys[1], "anger"], [keys[0], "happy"])
        found = read_predictions(path, manifest_of(LABELS[:2]))
        np.testing.assert_array_equal(found.preds_B, [1, 6])

    def test_rows_of_the_same_number_are_found_by_path(self, tmp_path):
        path = write_csv(tmp_path / "p.csv", ["row", "path", "pred"], [0, "1.png", "fear"], [0, "0.png", "sad"])
        found = read_predictions(path, manifest_of(LABELS[:2], row=[0, 0]))
        np.testing.assert_array_equal(found.preds_B, [2, 4])

    def test_predictions_of_other_rows_and_dropped_labels_are_counted(self, tmp_path):
        manifest = manifest_of([*LABELS, "contempt"], WITH_CONTEMPT)
        path = write_csv(tmp_path / "p.csv", ["row", "pred"], *[[row, "fear"] for row in range(9)])
        found = read_predictions(path, manifest)
        assert found.labels == EMOTIONS
        assert found.protocol.dropped == {"label contempt": 1, "predictions of other rows": 5}
        assert found.protocol.n == 4

    def test_a_tool_that_knows_contempt_is_asked_for_it(self, tmp_path):
        manifest = manifest_of([*LABELS, "contempt"], WITH_CONTEMPT)
        path = write_csv(tmp_path / "p.csv", ["row", "pred"], *[[row, "contempt"] for row in range(5)])
        found = read_predictions(path, manifest)
        assert found.labels == WITH_CONTEMPT
        np.testing.assert_array_equal(found.preds_B, [7] * 5)
        assert not found.protocol.dropped

    def test_no_answer_means_no_face_unless_the_file_says_more(self, tmp_path):
        manifest = manifest_of(LABELS[:3])
        rows = [[0, "fear", "ok"], [1, None, "unreadable"], [2, None, "no_face"]]
        path = write_csv(tmp_path / "p.csv", ["row", "pred", "status"], *rows)
        assert read_predictions(path, manifest).status == ("ok", "unreadable", "no_face")
        path = write_csv(tmp_path / "p.csv", ["row", "pred"], *[row[:2] for row in rows])
        found = read_predictions(path, manifest, unanswered=UNANSWERED["leave-out"])
        assert found.status == ("ok", "no_face", "no_face")
        assert found.protocol.unanswered == "left out"

    def test_parquet_is_read_with_prefixed_columns_alone(self, tmp_path):
        table = {"row": [0], "fear": ["votes of somebody"], "prob_fear": [0.75], "prob_happy": [0.25]}
        pq.write_table(pa.table(table), tmp_path / "p.parquet")
        found = read_predictions(tmp_path / "p.parquet", manifest_of(["fear"]))
        assert found.labels.names == ("happiness", "fear")
        np.testing.assert_array_equal(found.probs_BC, [[0.25, 0.75]])

    @pytest.mark.parametrize(
        ("header", "rows", "message"),
        [
            ("row,pred", ["0,fear"], r"1 of 2 images have no prediction, the first is row 1"),
            ("row,pred", ["0,fear", "1,fear", "0,sad"], r"p\.csv, row 2: row 0 is already in row 0"),
            ("row,pred", ["0,fear", "1,joyful"], r"p\.csv, row 1: pred: unknown label 'joyful'"),
            ("row,pred,fear,sad", ["0,sad,0.7,0.3", "1,sad,0,1"], "row 0: pred is sadness, but fear is more probable"),
            ("row,pred,fear,sad", ["0,fear,1,0", "1,anger,0,1"], "row 1: pred is anger, but sadness is more probable"),
            ("row,fear,sad", ["0,1,0", "1,0.5,0.6"], r"row 1: probabilities sadness 0\.6, fear 0\.5 \(1 such rows\)"),
            ("row,fear,sad", ["0,1.5,-0.5", "1,0.5,0.5"], r"row 0: probabilities sadness -0\.5, fear 1\.5"),
            ("row,fear,sad", ["0,1,", "1,0.5,0.5"], r"row 0: probabilities sadness nan, fear 1 "),
            ("row,fear,sad", ["0,inf,-inf", "1,0.5,0.5"], "row 0: probabilities"),
            ("row,fear,sad", ["0,yes,no", "1,0.5,0.5"], "column 'sad' is not of probabilities"),
            ("row,fear,afraid", ["0,1,0", "1,0,1"], "columns 'fear' and 'afraid' are both of label 'fear'"),
            ("row,prob_bored,prob_sad", ["0,1,0", "1,0,1"], "column 'prob_bored': unknown label 'bored'"),
            ("row,answer", ["0,fear", "1,fear"], "nor `pred`; found row, answer"),
            ("row,pred,status", ["0,,ok", "1,fear,ok"], r"row 0: status 'ok' without an answer"),
            ("row,pred,status", ["0,sad,ok", "1,fear,no_face"], r"row 1: status 'no_face' with an answer"),
            ("row,pred,status", ["0,sad,fine", "1,fear,ok"], r"row 0: status 'fine'\. Allowed: ok, no_face"),
            ("id,pred", ["0,fear", "1,fear"], "no column `path`, nor a `row`"),
            ("row,path,pred", ["0,0.png,sad", "1,7.png,sad"], r"row 1: is of 7\.png, where the data have /data"),
            ("path,pred", ["0.png,sad", "8.png,sad"], "2 of 2 images have no prediction, the first is path '/data"),
            ("row,pred", ["0,fear", "x,fear"], r"p\.csv: cannot be read"),
        ],
    )  # fmt: skip
    def test_mistakes_are_named_with_file_and_row(self, tmp_path, header, rows, message):
        path = tmp_path / "p.csv"
        path.write_text("\n".join([header, *rows]))
        with pytest.raises(DataError, match=message):
            read_predictions(path, manifest_of(LABELS[:2]))

    def test_data_in_one_file_have_no_paths(self, tmp_path):
        manifest = manifest_of(["fear"], path=[None], image=[b"..."])
        path = write_csv(tmp_path / "p.csv", ["path", "pred"], ["0.png", "fear"])
        with pytest.raises(DataError, match=r"the data have no paths\. Allowed: a column `row`"):
            read_predictions(path, manifest)

    def test_what_is_no_table_is_said_so(self, tmp_path):
        (tmp_path / "p.parquet").write_bytes(b"no parquet")
        (tmp_path / "p.txt").write_text("row,pred")
        (tmp_path / "latin.csv").write_bytes("row,pred,G\xe4ste\n0,fear,1\n".encode("latin-1"))
        (tmp_path / "box.csv").write_text('row,pred,box\n0,fear,"1,2,3,4"\n')
        (tmp_path / "twice.csv").write_text("row,pred, pred\n0,fear,sad\n")
        pq.write_table(pa.table([[0], ["fear"], ["sad"]], ["row", "pred", "pred"]), tmp_path / "twice.parquet")
        three = {"row": [0, 1, 2, 3], "pred": ["fear"] * 4, "box": [[1, 2, 3]] * 4}
        pq.write_table(pa.table(three), tmp_path / "three.parquet")
        pq.write_table(pa.table({"row": [0], "pred": [["fear"]]}), tmp_path / "nested.parquet")
        text = pa.array([b"\xff"]).cast(pa.string(), safe=False)
        pq.write_table(pa.table({"row": [0], "pred": text}), tmp_path / "text.parquet")
        for name, message in {
            "p.parquet": "cannot be read",
            "p.txt": r"unknown format '\.txt'\. Allowed: \.parquet",
            "none.csv": "cannot be read",
            "latin.csv": "cannot be read",
            "text.parquet": "cannot be read",
            "box.csv": r"column 'box' is of type string\. Allowed: list",
            "twice.csv": r"columns \['pred'\] are repeated",
            "twice.parquet": "cannot be read",
            "nested.parquet": r"column 'pred' is of type list.*\. Allowed: string",
            "three.parquet": r"column 'box' holds \[1\.0, 2\.0, 3\.0\]\. Allowed: x, y, width, height",
        }.items():
            with pytest.raises(DataError, match=message):
                read_predictions(tmp_path / name, manifest_of())

    @pytest.mark.parametrize("protocol", [b'{"colour": 1}', b"[" * 100_000, b"\xff"])
    def test_a_damaged_protocol_is_said_so(self, tmp_path, protocol):
        table = pa.table({"row": [0], "pred": ["fear"]})
        pq.write_table(table.replace_schema_metadata({b"motivnet.protocol": protocol}), tmp_path / "p.parquet")
        with pytest.raises(DataError, match="its protocol cannot be read"):
            read_predictions(tmp_path / "p.parquet", manifest_of(["fear"]))

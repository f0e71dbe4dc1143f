"""Scores of valence and arousal: on the rows that have both a label and an answer."""

import csv

import numpy as np
import pyarrow.parquet as pq
import pytest

from motivnet.data.manifest import make_manifest
from motivnet.errors import DataError
from motivnet.evaluation.evaluate import score
from motivnet.evaluation.external_predictions import read_predictions
from motivnet.evaluation.metrics import ccc, rmse, sign_agreement
from motivnet.evaluation.predictions import Predictions, Protocol
from motivnet.report.evaluation_report import evaluation_report

ROWS = 60
NAN = float("nan")


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr("motivnet.evaluation.evaluate.NUM_RESAMPLES", 100)


def predictions_of(*, labelled=True, predicted=True, subjects=None):
    rng = np.random.default_rng(0)
    target = rng.uniform(-1, 1, (ROWS, 2))
    affect = np.clip(0.7 * target + rng.normal(0, 0.2, target.shape), -1, 1)
    valence = [None if row < 10 else value for row, value in enumerate(target[:, 0].tolist())]
    nothing = [None] * ROWS
    manifest = make_manifest(
        {
            "path": [f"/faces/{row}.png" for row in range(ROWS)],
            "label": ["happiness", "fear"] * (ROWS // 2),
            "split": ["test"] * ROWS,
            "subject": subjects or nothing,
            "valence": valence if labelled else nothing,
            "arousal": target[:, 1].tolist() if labelled else nothing,
        }
    )
    probs = np.full((ROWS, 7), 1 / 7)
    status = ["ok"] * ROWS
    probs[-1], affect[-1], status[-1] = NAN, NAN, "no_face"
    protocol = Protocol(
        model="moody", data="csv:x", data_fingerprint="abc", n=ROWS, labels=manifest.labels.names, detection="none"
    )
    return Predictions(
        manifest=manifest,
        probs_BC=probs,
        status=tuple(status),
        protocol=protocol,
        affect_B2=affect if predicted else None,
    )


def test_scores_are_those_of_the_labelled_and_answered_rows():
    predictions = predictions_of()
    found = score(predictions).affect
    target, preds = predictions.manifest.affect, predictions.affect_B2
    for column, (name, first) in enumerate((("valence", 10), ("arousal", 0))):
        x, y = preds[first:-1, column], target[first:-1, column]
        values = found[name]
        assert values["n"] == ROWS - 1 - first
        assert values["ccc"] == pytest.approx(ccc(x, y))
        assert values["rmse"] == pytest.approx(rmse(x, y))
        assert values["sign_agreement"] == pytest.approx(sign_agreement(x, y))
        for metric, interval in values["intervals"].items():
            assert interval.low < values[metric] < interval.high
    assert score(predictions, intervals=False).affect["valence"]["intervals"] == {}


def test_intervals_are_by_subject_where_there_are_any():
    one = score(predictions_of(subjects=[str(row // 10) for row in range(ROWS)])).affect
    other = score(predictions_of()).affect
    assert one["arousal"]["ccc"] == other["arousal"]["ccc"]
    assert one["arousal"]["intervals"] != other["arousal"]["intervals"]


@pytest.mark.parametrize("changes", [{"labelled": False}, {"predicted": False}])
def test_without_labels_or_answers_nothing_is_said(changes):
    predictions = predictions_of(**changes)
    found = score(predictions)
    assert found.affect == {}
    assert "affect" not in found.to_dict()
    assert "arousal" not in evaluation_report(found)


def test_the_report_has_a_table():
    predictions = predictions_of()
    found = score(predictions)
    html = evaluation_report(found)
    assert "Valence and arousal" in html
    assert f"{found.affect['valence']['ccc']:.3f} [" in html
    assert f"{found.affect['arousal']['rmse']:.3f} [" in html


def test_select_keeps_what_belongs_together():
    predictions = predictions_of()
    np.testing.assert_array_equal(predictions.select(np.array([5, 2])).affect_B2, predictions.affect_B2[[5, 2]])
    assert predictions_of(predicted=False).select(np.array([5])).affect_B2 is None


def test_of_another_shape_they_are_refused():
    predictions = predictions_of()
    with pytest.raises(DataError, match=r"valence and arousal of shape \(60, 3\) for 60 images"):
        Predictions(
            manifest=predictions.manifest,
            probs_BC=predictions.probs_BC,
            status=predictions.status,
            protocol=predictions.protocol,
            affect_B2=np.zeros((60, 3)),
        )


def test_written_and_read_back_they_are_the_same(tmp_path):
    predictions = predictions_of()
    predictions.write(tmp_path / "p.parquet")
    read = read_predictions(tmp_path / "p.parquet", predictions.manifest)
    np.testing.assert_array_equal(read.affect_B2, predictions.affect_B2)
    predictions_of(predicted=False).write(tmp_path / "plain.parquet")
    assert not {"valence", "arousal"} & set(pq.read_schema(tmp_path / "plain.parquet").names)
    assert read_predictions(tmp_path / "plain.parquet", predictions.manifest).affect_B2 is None


class TestForeign:
    def read(self, tmp_path, *rows, header=("path", "pred", "valence", "arousal")):
        with (tmp_path / "other.csv").open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
        manifest = make_manifest({"path": ["/f/a.png", "/f/b.png"], "label": ["fear", "anger"], "split": ["t", "t"]})
        return read_predictions(tmp_path / "other.csv", manifest)

    def test_another_tools_are_read_row_by_row(self, tmp_path):
        found = self.read(tmp_path, ("b.png", "anger", "0.5", ""), ("a.png", "fear", "-1", "0.25"))
        np.testing.assert_array_equal(found.affect_B2, [[-1, 0.25], [0.5, NAN]])

    def test_one_of_the_two_alone_is_left_alone(self, tmp_path):
        header = ("path", "pred", "valence")
        assert self.read(tmp_path, ("a.png", "fear", "7"), ("b.png", "fear", "1"), header=header).affect_B2 is None

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("7.5", r"row 1: valence is 7.5. Allowed: numbers from -1 to 1"),
            ("inf", r"row 1: valence is inf"),
            ("much", r"column 'valence' is not of numbers"),
        ],
    )
    def test_what_is_no_number_from_minus_1_to_1_is_refused(self, tmp_path, value, message):
        with pytest.raises(DataError, match=message):
            self.read(tmp_path, ("a.png", "fear", "0", "0"), ("b.png", "fear", value, "0"))

import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from motivnet.checkpoints.bundle import Calibration
from motivnet.data.manifest import make_manifest
from motivnet.errors import ConfigError, DataError, OutputError
from motivnet.evaluation.evaluate import FILES, METRICS, evaluate, score
from motivnet.evaluation.predictions import UNANSWERED, Predictions, Protocol, choose_face, predict_manifest
from motivnet.faces import Detection
from motivnet.inference.predictor import Predictor
from motivnet.inference.results import FaceResult
from motivnet.labels import EMOTIONS, WITH_CONTEMPT
from motivnet.preprocess import Box

DARK, BRIGHT = 0, 255


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def flat(value):
    return png(np.full((20, 30, 3), value, np.uint8))


def halves():
    """An image that is dark on the left and bright on the right, each half 40 x 40."""
    image = np.full((40, 80, 3), DARK, np.uint8)
    image[:, 40:] = BRIGHT
    return png(image)


LEFT, RIGHT = (5.0, 5.0, 30.0, 30.0), (45.0, 5.0, 30.0, 30.0)


def manifest_of(images, labels, label_set=EMOTIONS, **columns):
    return make_manifest({"image": images, "label": labels, "split": ["test"] * len(labels), **columns}, label_set)


class TwoFaces:
    """Finds a larger face on the left and a smaller one on the right of `halves`, and nothing in other images."""

    name = "two"

    def detect(self, image_hwc_u8):
        if image_hwc_u8.shape[1] != 80:
            return []
        return [Detection(Box(2, 2, 36, 36), 0.9), Detection(Box(50, 10, 20, 20), 0.8)]


@pytest.fixture
def predictor(tiny_bundle):
    return Predictor.load(tiny_bundle.path, detector=TwoFaces(), batch_size=3, workers=4)


def ask(predictor, manifest, *, detect=False, **settings):
    return predict_manifest(predictor, manifest, detect=detect, data="folder:x", split="test", **settings)


def answers(predictions):
    return [None if pred < 0 else EMOTIONS.names[pred] for pred in predictions.preds_B]


class TestPredictManifest:
    def test_answers_come_in_the_order_of_the_manifest(self, predictor):
        values = [BRIGHT, DARK, 127, DARK, BRIGHT, BRIGHT, 127] * 3
        found = ask(predictor, manifest_of([flat(value) for value in values], ["neutral"] * len(values)))
        words = {BRIGHT: "happiness", DARK: "sadness", 127: "neutral"}
        assert answers(found) == [words[value] for value in values]
        assert not found.faces
        protocol = found.protocol
        assert (protocol.model, protocol.n, protocol.calibration) == ("tiny", 21, Calibration())
        assert protocol.detection == "none: images are crops"
        assert protocol.preprocessing == predictor.config.preprocessing.fingerprint
        assert protocol.data_fingerprint == found.manifest.fingerprint()

    def test_unreadable_images_are_rows_with_a_reason(self, predictor):
        found = ask(predictor, manifest_of([flat(BRIGHT), b"no image", flat(DARK)], ["neutral"] * 3))
        assert found.status == ("ok", "unreadable", "ok")
        assert answers(found) == ["happiness", None, "sadness"]
        assert sorted(found.errors) == [0, 1, 2]
        assert "not an image" in found.errors[1]
        assert all("blank" in found.errors[row] for row in (0, 2))

    def test_labels_that_the_model_does_not_know_are_counted(self, predictor):
        manifest = manifest_of([flat(DARK), flat(BRIGHT)], ["contempt", "fear"], WITH_CONTEMPT)
        found = ask(predictor, manifest)
        assert answers(found) == ["happiness"]
        assert (found.protocol.dropped, found.protocol.n) == ({"label contempt": 1}, 1)

    def test_without_detection_the_face_is_the_box_of_the_data_set(self, predictor):
        boxes = [LEFT, RIGHT, RIGHT, LEFT, None, RIGHT, LEFT, LEFT]
        found = ask(predictor, manifest_of([halves()] * 8, ["neutral"] * 8, box=boxes))
        words = {LEFT: "sadness", RIGHT: "happiness", None: "neutral"}
        assert answers(found) == [words[box] for box in boxes]
        assert found.faces == {row: Box(*box) for row, box in enumerate(boxes) if box}
        assert found.protocol.detection == "none: boxes of the data set; 1 images without one are crops"
        assert ask(predictor, found.manifest.select(np.arange(4))).protocol.detection == "none: boxes of the data set"

    def test_with_detection_the_largest_face_counts(self, predictor):
        found = ask(predictor, manifest_of([halves(), flat(BRIGHT)], ["neutral"] * 2), detect=True)
        assert answers(found) == ["sadness", None]
        assert found.status == ("ok", "no_face")
        assert found.faces == {0: Box(2, 2, 36, 36)}
        assert found.protocol.detection == "two: the largest face counts"

    def test_with_detection_and_box_the_face_that_overlaps_most_counts(self, predictor):
        between = (30.0, 0.0, 30.0, 30.0)
        boxes = [LEFT, RIGHT, between, (0.0, 38.5, 80.0, 1.0), None]
        found = ask(predictor, manifest_of([halves()] * 5, ["neutral"] * 5, box=boxes), detect=True)
        assert answers(found) == ["sadness", "happiness", "happiness", None, "sadness"]
        assert found.status[3] == "no_face"
        assert "overlaps the data set's box most, the largest in 1 images without" in found.protocol.detection

    def test_every_result_passes_the_tracker(self, predictor):
        seen = []

        def track(results, *, total, what):
            for result in results:
                seen.append(result.status)
                yield result

        ask(predictor, manifest_of([flat(DARK), b"no image"], ["fear"] * 2), track=track)
        assert seen == ["ok", "unreadable"]


def test_no_face_is_chosen_where_there_is_none():
    assert choose_face((), None) is None
    assert choose_face((), Box(0, 0, 9, 9)) is None
    face = FaceResult(Box(0, 0, 9, 9), 1.0, "fear", {"fear": 1.0})
    assert choose_face((face,), Box(9, 0, 9, 9)) is None
    assert choose_face((face,), Box(8, 8, 9, 9)) is face


def predictions_of(seed=0, num_images=200, *, status=None, has_probs=True, unanswered="counted as errors", **columns):
    """Random answers that are right more often than chance."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 7, num_images)
    logits = rng.normal(size=(num_images, 7))
    logits[np.arange(num_images), target] += 1
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    status = status or ("ok",) * num_images
    probs[[state != "ok" for state in status]] = np.nan
    labels = [EMOTIONS.names[index] for index in target]
    manifest = manifest_of([b"x"] * num_images, labels, **columns)
    protocol = Protocol(
        model="random",
        data="folder:x",
        data_fingerprint="abc",
        n=num_images,
        labels=EMOTIONS.names,
        detection="none",
        unanswered=unanswered,
    )
    return Predictions(manifest=manifest, probs_BC=probs, status=status, protocol=protocol, has_probs=has_probs)


class TestScore:
    def test_agrees_with_scikit_learn(self):
        sklearn = pytest.importorskip("sklearn.metrics")
        predictions = predictions_of()
        found = score(predictions, intervals=False)
        target, preds, probs = predictions.target_B, predictions.preds_B, predictions.probs_BC
        scored = {
            "n": 200,
            "war": sklearn.accuracy_score(target, preds),
            "uar": sklearn.balanced_accuracy_score(target, preds),
            "top2": sklearn.top_k_accuracy_score(target, probs, k=2),
            "precision_macro": sklearn.precision_score(target, preds, average="macro"),
            "precision_weighted": sklearn.precision_score(target, preds, average="weighted"),
            "f1_macro": sklearn.f1_score(target, preds, average="macro"),
            "f1_weighted": sklearn.f1_score(target, preds, average="weighted"),
            "auroc_macro": sklearn.roc_auc_score(target, probs, multi_class="ovr"),
            "log_loss": sklearn.log_loss(target, probs),
        }
        assert set(found.metrics) == {"n", *METRICS}
        assert {name: found.metrics[name] for name in scored} == pytest.approx(scored)
        np.testing.assert_array_equal(found.confusion, sklearn.confusion_matrix(target, preds))
        recall = sklearn.recall_score(target, preds, average=None)
        assert [values["recall"] for values in found.per_class.values()] == pytest.approx(recall.tolist())
        assert [values["n"] for values in found.per_class.values()] == np.bincount(target).tolist()
        assert [values["predicted"] for values in found.per_class.values()] == np.bincount(preds).tolist()
        assert (found.intervals, found.bootstrap) == ({}, None)

    def test_intervals_hold_the_value_and_are_as_wide_as_theory_says(self):
        found = score(predictions_of())
        for name, (low, high) in found.intervals.items():
            assert low < found.metrics[name] < high, name
        war = found.metrics["war"]
        low, high = found.intervals["war"]
        assert high - low == pytest.approx(2 * 1.96 * math.sqrt(war * (1 - war) / 200), rel=0.1)
        assert set(found.intervals) == set(METRICS) - {"ece", "classwise_ece"}
        for values in found.per_class.values():
            assert set(values["intervals"]) == {"recall", "precision", "f1"}
            low, high = values["intervals"]["recall"]
            assert low <= values["recall"] <= high
        assert found.bootstrap == {"by": "image", "level": 0.95, "num_resamples": 1000, "seed": 0}
        assert score(predictions_of()).intervals == found.intervals
        assert score(predictions_of(), seed=1).intervals != found.intervals

    def test_subjects_are_drawn_whole(self):
        # Ten copies of 20 images: as much evidence as 20 images.
        subject = [f"s{i % 20}" for i in range(200)]
        base = predictions_of(subject=subject)
        probs = np.tile(base.probs_BC[:20], (10, 1))
        labels = (base.manifest.table["label"].to_pylist()[:20]) * 10
        by_subject = Predictions(
            manifest=manifest_of([b"x"] * 200, labels, subject=subject),
            probs_BC=probs,
            status=base.status,
            protocol=base.protocol,
        )
        by_image = Predictions(
            manifest=manifest_of([b"x"] * 200, labels),
            probs_BC=probs,
            status=base.status,
            protocol=base.protocol,
        )
        wide, narrow = score(by_subject), score(by_image)
        assert wide.bootstrap is not None
        assert wide.bootstrap["by"] == "subject"
        ratio = np.diff(wide.intervals["war"])[0] / np.diff(narrow.intervals["war"])[0]
        assert ratio == pytest.approx(math.sqrt(10), rel=0.25)

    def test_images_without_an_answer_are_errors_or_left_out(self):
        status = ("ok",) * 150 + ("no_face",) * 30 + ("unreadable",) * 20
        counted = score(predictions_of(status=status), intervals=False)
        left_out = score(predictions_of(status=status, unanswered=UNANSWERED["leave-out"]), intervals=False)
        alone = predictions_of().select(np.arange(150))
        expected = score(alone, intervals=False)
        assert counted.status == left_out.status == {"ok": 150, "no_face": 30, "unreadable": 20}
        assert left_out.metrics == expected.metrics
        assert (counted.metrics["n"], left_out.metrics["n"]) == (200, 150)
        for name in ("war", "top2"):
            assert counted.metrics[name] == pytest.approx(expected.metrics[name] * 150 / 200)
        # Probabilities are those of the images that have some.
        for name in ("auroc_macro", "log_loss", "brier", "ece", "classwise_ece"):
            assert counted.metrics[name] == expected.metrics[name]
        assert np.sum(counted.confusion) == 150
        assert sum(values["n"] for values in counted.per_class.values()) == 200
        with_intervals = score(predictions_of(status=status))
        low, high = with_intervals.intervals["top2"]
        assert low < counted.metrics["top2"] < high

    def test_no_answer_at_all(self):
        status = ("no_face",) * 200
        found = score(predictions_of(status=status))
        assert (found.metrics["war"], found.metrics["top2"]) == (0, 0)
        assert math.isnan(found.metrics["auroc_macro"])
        plain = found.to_dict()
        assert plain["auroc_macro"] is None
        assert plain["intervals"]["log_loss"] == [None, None]
        with pytest.raises(DataError, match="nothing to score"):
            score(predictions_of(status=status, unanswered=UNANSWERED["leave-out"]))

    def test_answers_without_probabilities_have_no_measure_of_them(self):
        found = score(predictions_of(has_probs=False))
        known = {name for name, value in found.metrics.items() if not math.isnan(value)}
        assert known == {"n", "war", "uar", "precision_macro", "precision_weighted", "f1_macro", "f1_weighted"}
        assert found.to_dict()["top2"] is None

    def test_groups_and_splits_are_scored_apart(self):
        groups = [[("age", "young" if i % 4 else "old")] for i in range(200)]
        groups[7] = [("age", None)]
        predictions = predictions_of(groups=groups, split=["a"] * 120 + ["b"] * 80)
        found = score(predictions, intervals=False)
        assert [(row["group"], row["value"], row["n"]) for row in found.groups] == [
            ("age", "old", 50),
            ("age", "young", 149),
            ("split", "a", 120),
            ("split", "b", 80),
        ]
        right = predictions.preds_B == predictions.target_B
        assert found.groups[0]["war"] == pytest.approx(right[::4].mean())
        assert found.groups[2]["war"] == pytest.approx(right[:120].mean())

    def test_plain_data_have_what_the_contract_names(self):
        plain = score(predictions_of()).to_dict()
        names = [
            "n",
            "war",
            "uar",
            "top2",
            "precision_macro",
            "f1_macro",
            "auroc_macro",
            "ece",
            "confusion",
            "intervals",
            "protocol",
        ]
        assert set(names) <= set(plain)
        assert json.loads(json.dumps(plain, allow_nan=False)) == plain
        assert plain["protocol"]["labels"] == list(EMOTIONS)
        assert plain["intervals"]["war"][0] < plain["war"]

    def test_a_label_without_images_has_no_recall(self):
        target = ["fear", "anger"] * 20
        manifest = manifest_of([b"x"] * 40, target)
        base = predictions_of(num_images=40)
        predictions = Predictions(manifest=manifest, probs_BC=base.probs_BC, status=base.status, protocol=base.protocol)
        plain = score(predictions).to_dict()
        assert plain["per_class"]["neutral"]["recall"] is None
        assert plain["per_class"]["neutral"]["intervals"]["recall"] == [None, None]
        assert plain["per_class"]["fear"]["n"] == 20


class TestEvaluate:
    """The function that does what the verb does."""

    @pytest.fixture
    def data(self, tmp_path):
        for label, values in {"happiness": [250, 240], "sadness": [0, 255]}.items():
            (tmp_path / "data" / label).mkdir(parents=True)
            for value in values:
                (tmp_path / "data" / label / f"{value}.png").write_bytes(flat(value))
        return f"folder:{tmp_path / 'data'}"

    def test_one_call_predicts_scores_and_writes(self, data, tiny_bundle, tmp_path, monkeypatch):
        monkeypatch.setattr("motivnet.evaluation.evaluate.NUM_RESAMPLES", 20)
        steps = []

        def track(items, *, total, what):
            steps.append((what, total))
            return items

        found = evaluate(tiny_bundle.path, data, track=track)
        assert [path.name for path in tmp_path.iterdir()] == ["data"]
        assert found.metrics["war"] == 3 / 4
        assert steps == [("images", 4), ("intervals by resampling", 20)]
        out = tmp_path / "out"
        again = evaluate(tiny_bundle.path, data, out=out)
        assert again.to_dict() == found.to_dict() == json.loads((out / "metrics.json").read_text())
        assert {path.name for path in out.iterdir()} == set(FILES)
        with pytest.raises(OutputError, match=r"holds .* already"):
            evaluate(tiny_bundle.path, data, out=out)
        theirs = evaluate(None, data, predictions=out / "predictions.parquet")
        assert theirs.to_dict() == found.to_dict()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"predictions": "x.csv"}, "either model or predictions"),
            ({"unseen_in": "Training"}, "Allowed: with split"),
            ({"unanswered": "ignore"}, "'ignore'. Allowed: error, leave-out"),
        ],
    )
    def test_options_that_contradict_each_other(self, options, message):
        with pytest.raises(ConfigError, match=message):
            evaluate("nano", "folder:x", **options)

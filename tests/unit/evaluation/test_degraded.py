"""What degradations cost, by a model that judges by mean brightness: bright is happiness, dark sadness."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from motivnet.cli.main import app
from motivnet.data.degradations import DEGRADATIONS, Degradation
from motivnet.data.manifest import make_manifest
from motivnet.errors import ConfigError
from motivnet.evaluation.evaluate import evaluate, score
from motivnet.evaluation.metrics import NO_ANSWER
from motivnet.evaluation.predictions import UNANSWERED, predict_manifest
from motivnet.faces import Detection
from motivnet.inference.predictor import Predictor
from motivnet.labels import EMOTIONS
from motivnet.preprocess import Box

NOTHING, NIGHT = Degradation(), Degradation(gain=0.0)
BOX = Box(10, 5, 20, 30)


class Recorder:
    """A degradation that notes what it is given, and changes nothing."""

    def __init__(self):
        self.seen = []

    def __call__(self, face_hwc_u8, face_px=None):
        self.seen.append((face_hwc_u8.shape, face_px))
        return face_hwc_u8


class OneFace:
    """Finds `BOX` in every image, and counts the images."""

    name = "one"
    calls = 0

    def detect(self, image_hwc_u8):
        self.calls += 1
        return [Detection(BOX, 0.9)]


@pytest.fixture
def degradations(monkeypatch):
    """Set what degradations there are: `degradations({"night": ...})`."""

    def choose(chosen):
        monkeypatch.setattr("motivnet.evaluation.predictions.DEGRADATIONS", chosen)
        monkeypatch.setattr("motivnet.evaluation.evaluate.NUM_RESAMPLES", 20)

    return choose


@pytest.fixture
def data(tmp_path):
    for label, values in {"happiness": [250, 240], "sadness": [0, 255]}.items():
        (tmp_path / "data" / label).mkdir(parents=True)
        for value in values:
            (tmp_path / "data" / label / f"{value}.png").write_bytes(flat(value))
    return f"folder:{tmp_path / 'data'}"


def flat(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((60, 40, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def ask(bundle, images, *, detector="whole", detect=False, boxes=None, **settings):
    columns = {"box": boxes} if boxes else {}
    names = ["happiness"] * len(images)
    manifest = make_manifest({"image": images, "label": names, "split": ["test"] * len(images), **columns}, EMOTIONS)
    predictor = Predictor.load(bundle.path, detector=detector, batch_size=3)
    return predict_manifest(predictor, manifest, detect=detect, data="x:y", split=None, degrade=True, **settings)


def names_of(preds):
    return [None if pred == NO_ANSWER else EMOTIONS.names[pred] for pred in preds]


def test_the_loss_is_that_of_the_same_images(data, tiny_bundle, degradations):
    degradations({"nothing": NOTHING, "night": NIGHT})
    found = evaluate(tiny_bundle.path, data, degrade=True)
    nothing, night = found.robustness["nothing"], found.robustness["night"]
    assert nothing == {
        "war": 0.75,
        "uar": 0.75,
        "war_loss": 0,
        "uar_loss": 0,
        "intervals": {"war_loss": (0, 0), "uar_loss": (0, 0)},
    }
    # At night everybody is sad.
    assert {name: night[name] for name in ("war", "uar", "war_loss", "uar_loss")} == {
        "war": 0.5,
        "uar": 0.5,
        "war_loss": 0.25,
        "uar_loss": 0.25,
    }
    low, high = night["intervals"]["war_loss"]
    assert low <= 0.25 <= high
    assert low < high


def test_all_else_is_as_without_degradations(data, tiny_bundle, degradations):
    degradations({"night": NIGHT})
    plain, found = evaluate(tiny_bundle.path, data).to_dict(), evaluate(tiny_bundle.path, data, degrade=True).to_dict()
    assert list(found.pop("robustness")) == ["night"]
    assert found == plain


def test_every_image_has_an_answer_under_each_degradation(tiny_bundle, degradations):
    degradations({"nothing": NOTHING, "night": NIGHT})
    found = ask(tiny_bundle, [flat(255), flat(0), b"no image", flat(127), flat(255), flat(0), flat(255)])
    assert found.degraded["nothing"].tolist() == found.preds_B.tolist()
    assert names_of(found.degraded["night"]) == ["sadness", "sadness", None, *["sadness"] * 4]
    assert score(found, intervals=False).robustness["nothing"]["war_loss"] == 0
    left_out = ask(tiny_bundle, [flat(255), b"no image"], unanswered=UNANSWERED["leave-out"])
    night = score(left_out, intervals=False).robustness["night"]
    assert (night["war"], night["war_loss"]) == (0, 1)


def test_no_answer_at_all(tiny_bundle, degradations):
    degradations({"nothing": NOTHING, "night": NIGHT})
    found = ask(tiny_bundle, [b"no image"] * 2)
    assert {name: preds.tolist() for name, preds in found.degraded.items()} == dict.fromkeys(
        ("nothing", "night"), [NO_ANSWER] * 2
    )


def test_the_crop_is_degraded_with_its_margin_before_it_is_resized(tiny_bundle, degradations):
    recorder = Recorder()
    degradations({"recorder": recorder})
    ask(tiny_bundle, [flat(9)] * 2, boxes=[BOX, None])
    # The longer side of 30 with a tenth on each side; a whole image has no margin and is made square.
    assert recorder.seen == [((36, 36, 3), 30), ((60, 60, 3), None)]


def test_a_detected_face_stays_the_same(tiny_bundle, degradations):
    recorder, detector = Recorder(), OneFace()
    degradations({"a": recorder, "b": recorder})
    found = ask(tiny_bundle, [flat(9)], detector=detector, detect=True)
    assert recorder.seen == [((36, 36, 3), 30)] * 2
    assert detector.calls == 1
    assert found.faces == {0: BOX}
    recorder.seen.clear()
    # Without a detector the face is the whole image, which has no margin here either.
    assert not ask(tiny_bundle, [flat(9)], detect=True).faces
    assert recorder.seen == [((60, 60, 3), None)] * 2


def test_strengths_are_relative_to_the_face_and_not_to_its_margin():
    rng = np.random.default_rng(0)
    crop = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Degradation(side=24)(crop, face_px=48), Degradation(side=48)(crop))
    np.testing.assert_array_equal(Degradation(blur=2)(crop, face_px=48), Degradation(blur=1)(crop))
    np.testing.assert_array_equal(Degradation(side=48)(crop, face_px=48), crop)


def test_predictions_have_no_model_to_ask_again():
    with pytest.raises(ConfigError, match=r"answers already. Allowed: without degrade$"):
        evaluate(None, "folder:x", predictions="x.csv", degrade=True)


def test_the_verb_prints_and_writes_the_table(data, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("motivnet.evaluation.evaluate.NUM_RESAMPLES", 20)
    out = tmp_path / "out"
    arguments = ["evaluate", "--model", str(tiny_bundle.path), "--data", data, "--out", str(out), "--degrade"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "blur 1 px: WAR 75.0 %, loss +0.0 [+0.0, +0.0]; UAR 75.0 %, loss +0.0 [+0.0, +0.0]" in done.output
    found = json.loads((out / "metrics.json").read_text())["robustness"]
    assert list(found) == list(DEGRADATIONS)
    # Half of the light makes the bright faces neutral.
    assert {name: values["war"] for name, values in found.items() if values["war_loss"]} == {"gain 0.5": 0.25}
    page = re.sub(r"<[^>]+>|\s+", " ", (out / "report.html").read_text())
    assert "Robustness" in page
    assert "degradation WAR WAR loss UAR UAR loss" in re.sub(" +", " ", page)
    assert "+50.0 [" in page

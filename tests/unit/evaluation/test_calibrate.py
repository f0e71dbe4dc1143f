"""A bundle gets the temperature that its answers ask for."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from motivnet.checkpoints.bundle import Calibration
from motivnet.data.manifest import make_manifest
from motivnet.errors import DataError
from motivnet.evaluation.calibration import apply_calibration, calibrated_config
from motivnet.evaluation.predictions import Predictions, Protocol
from motivnet.labels import EMOTIONS, LabelSet

softmax = Calibration().probs


def pixel() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def answers(probs_BC, target_B, *, calibration=None, unread=0, labels=EMOTIONS) -> Predictions:
    """Predictions of one image again and again; the last `unread` ones have none."""
    count = len(target_B)
    manifest = make_manifest(
        {"image": [pixel()] * count, "label": [labels.names[i] for i in target_B], "split": ["val"] * count}, labels
    )
    probs_BC = probs_BC.copy()
    probs_BC[count - unread :] = np.nan
    return Predictions(
        manifest=manifest,
        probs_BC=probs_BC,
        status=("ok",) * (count - unread) + ("unreadable",) * unread,
        protocol=Protocol(
            model="tiny",
            data="somewhere",
            data_fingerprint="abc",
            split="val",
            n=count,
            labels=labels.names,
            detection="none",
            calibration=calibration,
        ),
    )


@pytest.fixture(scope="module")
def drawn():
    """Logits, and classes drawn from their softmax at temperature 2: a model that is twice too sure of itself."""
    rng = np.random.default_rng(0)
    logits_BC = rng.normal(size=(6000, 7)) * 3
    truth_BC = softmax(logits_BC / 2.0)
    return logits_BC, np.array([rng.choice(7, p=row) for row in truth_BC])


def test_finds_the_temperature_and_says_what_it_gained(tiny_bundle, drawn):
    logits_BC, target_B = drawn
    found = calibrated_config(tiny_bundle.config, answers(softmax(logits_BC), target_B))
    assert found.calibration.temperature == pytest.approx(2, rel=0.05)
    assert found.abstain_below is None
    record = found.provenance["calibration"]
    assert {name: record[name] for name in ("data", "data_fingerprint", "split", "n", "left_out")} == {
        "data": "somewhere",
        "data_fingerprint": "abc",
        "split": "val",
        "n": 6000,
        "left_out": {},
    }
    assert record["temperature"] == found.calibration.temperature
    assert record["log_loss"]["after"] < record["log_loss"]["before"] - 0.05
    assert record["ece"]["before"] > 0.1
    assert record["ece"]["after"] < 0.02
    assert record["abstention"] is None
    # All else stays.
    same = dataclasses.replace(found, calibration=Calibration(), provenance=tiny_bundle.config.provenance)
    assert same == tiny_bundle.config


def test_answers_at_any_temperature_give_the_same(tiny_bundle, drawn):
    logits_BC, target_B = drawn
    plain = calibrated_config(tiny_bundle.config, answers(softmax(logits_BC), target_B))
    hot = dataclasses.replace(tiny_bundle.config, calibration=Calibration(temperature=3.0), abstain_below=0.5)
    again = calibrated_config(hot, answers(hot.calibration.probs(logits_BC), target_B, calibration=hot.calibration))
    assert again.calibration.temperature == pytest.approx(plain.calibration.temperature, rel=1e-5)
    # A threshold of another temperature means nothing.
    assert again.abstain_below is None
    assert again.provenance["calibration"]["ece"]["before"] == pytest.approx(
        plain.provenance["calibration"]["ece"]["before"]
    )


def test_a_wanted_accuracy_gives_a_threshold_at_the_new_temperature(tiny_bundle, drawn):
    logits_BC, target_B = drawn
    found = calibrated_config(tiny_bundle.config, answers(softmax(logits_BC), target_B), accuracy=0.8)
    probs_BC = apply_calibration(softmax(logits_BC), found.calibration)
    answered_B = probs_BC.max(1) >= found.abstain_below
    accuracy = (probs_BC.argmax(1) == target_B)[answered_B].mean()
    assert 0.8 <= accuracy < 0.81
    abstention = found.provenance["calibration"]["abstention"]
    assert abstention == {
        "wanted_accuracy": 0.8,
        "abstain_below": found.abstain_below,
        "accuracy": accuracy,
        "coverage": answered_B.mean(),
    }


def test_images_without_an_answer_are_left_out_and_counted(tiny_bundle, drawn):
    logits_BC, target_B = drawn
    found = calibrated_config(tiny_bundle.config, answers(softmax(logits_BC), target_B, unread=1000))
    expected = calibrated_config(tiny_bundle.config, answers(softmax(logits_BC[:5000]), target_B[:5000]))
    record = found.provenance["calibration"]
    assert found.calibration.temperature == expected.calibration.temperature
    assert (record["n"], record["left_out"]) == (5000, {"unreadable": 1000})


def test_what_cannot_be_calibrated_by(tiny_bundle, drawn):
    logits_BC, target_B = drawn
    probs_BC = softmax(logits_BC)
    config = tiny_bundle.config
    with pytest.raises(DataError, match="none of 6000 images has an answer"):
        calibrated_config(config, answers(probs_BC, target_B, unread=6000))
    with pytest.raises(DataError, match="all of them are classified correctly"):
        calibrated_config(config, answers(probs_BC, probs_BC.argmax(1)))
    with pytest.raises(DataError, match="the probabilities are uninformative"):
        calibrated_config(config, answers(probs_BC, np.random.default_rng(1).permutation(target_B)))
    with pytest.raises(DataError, match="other labels than those of model 'tiny'"):
        calibrated_config(config, answers(probs_BC, target_B, labels=LabelSet(EMOTIONS.names[::-1])))
    # The surest answer is a mistake.
    wrong_first = target_B.copy()
    wrong_first[probs_BC.max(1).argmax()] = probs_BC[probs_BC.max(1).argmax()].argmin()
    with pytest.raises(DataError, match="reached at no threshold"):
        calibrated_config(config, answers(probs_BC, wrong_first), accuracy=1.0)

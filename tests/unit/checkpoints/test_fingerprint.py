import dataclasses
import shutil

import pytest

from motivnet.checkpoints.bundle import Calibration, open_bundle, write_config
from motivnet.checkpoints.fingerprint import model_fingerprint
from motivnet.errors import CheckpointError


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle.path, tmp_path / "copy")
    return open_bundle(tmp_path / "copy")


def test_a_copy_is_the_same_model_whatever_is_said_of_it(tiny_bundle, copy):
    before = model_fingerprint(tiny_bundle.path)
    assert len(before) == 12
    write_config(copy.path, dataclasses.replace(copy.config, name="other", scores={"a": {"war": 1.0}}))
    assert model_fingerprint(copy.path) == before


@pytest.mark.parametrize("change", ["calibration", "weights", "external weights"])
def test_what_bears_on_answers_makes_another_model(copy, change):
    before = model_fingerprint(copy.path)
    if change == "calibration":
        write_config(copy.path, dataclasses.replace(copy.config, calibration=Calibration(temperature=1.25)))
    elif change == "weights":
        copy.onnx.write_bytes(copy.onnx.read_bytes() + b"\0")
    else:
        (copy.path / "model.onnx.data").write_bytes(b"tensors")
    assert model_fingerprint(copy.path) != before


def test_embedded_models_and_files_have_one(tmp_path):
    assert len(model_fingerprint("nano")) == 12
    weights = tmp_path / "MotivNet.pth"
    weights.write_bytes(b"abc")
    assert model_fingerprint(weights) == "ba7816bf8f01"  # the SHA-256 of abc begins so


def test_what_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="unknown model"):
        model_fingerprint(tmp_path / "none")


def test_a_setting_that_came_later_makes_another_model_only_where_it_is_on(copy):
    # As in benchmarks/evidence, of before there were valence and arousal, and queries that learn.
    assert model_fingerprint("nano") == "810310a9348c"
    before = model_fingerprint(copy.path)
    for changes in ({"affect": True}, {"head": dataclasses.replace(copy.config.model.head, learnable_queries=True)}):
        model = dataclasses.replace(copy.config.model, **changes)
        write_config(copy.path, dataclasses.replace(copy.config, model=model))
        assert model_fingerprint(copy.path) != before

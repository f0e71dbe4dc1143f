import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from motivnet import config
from motivnet.checkpoints import bundle as bundles
from motivnet.checkpoints.bundle import (
    ASSETS,
    BundleConfig,
    Calibration,
    embedded_models,
    list_models,
    model_fingerprint,
    open_bundle,
    write_config,
)
from motivnet.errors import CheckpointError
from motivnet.labels import LabelSet
from motivnet.models.config import ModelConfig
from motivnet.preprocess import MOTIVNET_PAD, Preprocessing

MODEL = ModelConfig(backbone="timm:resnet18", image_size=(64, 64), in_chans=1)
GREY_64 = Preprocessing(
    geometry="square", size=(64, 64), channels="grey", filter="bicubic", mean=(127.5,), std=(64.0,), margin=0.25
)


def small(**changes):
    settings = {
        "name": "small",
        "summary": "A model für Tests",
        "licence": "Apache-2.0",
        "model": MODEL,
        "preprocessing": GREY_64,
        "scores": {"FER-2013 PrivateTest": {"war": 0.7, "uar": 0.65}},
        "provenance": {"recipe": {"epochs": 5}, "versions": ["torch 2"]},
    }
    return BundleConfig(**(settings | changes))


def edited(folder, edit):
    """Write a sound bundle, then let `edit` change what its config.json says."""
    write_config(folder, small())
    file = folder / "config.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    edit(data)
    file.write_text(json.dumps(data), encoding="utf-8")
    return folder


def test_what_is_written_is_read_again(tmp_path):
    folder = tmp_path / "new" / "folder"
    written = write_config(folder, small())
    for source in (folder, str(folder)):
        found = open_bundle(source)
        assert found == written
        assert found.config == small()
    assert found.config.preprocessing.fingerprint == GREY_64.fingerprint
    assert found.onnx == folder / "model.onnx"
    assert found.weights == folder / "model.safetensors"


def test_config_is_text_that_people_can_read(tmp_path):
    write_config(tmp_path, small())
    text = (tmp_path / "config.json").read_text(encoding="utf-8")
    assert "für" in text
    assert text.endswith("}\n")
    assert '"format": 1' in text


def test_a_bundle_of_before_there_was_calibration_has_none(tmp_path):
    def age(data):
        del data["calibration"], data["abstain_below"]

    found = open_bundle(edited(tmp_path, age)).config
    assert (found.calibration, found.abstain_below) == (Calibration(), None)


def test_an_interrupted_writing_leaves_the_old_settings(tmp_path, monkeypatch):
    write_config(tmp_path, small())
    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_config(tmp_path, small(summary="short"))
    monkeypatch.undo()
    assert open_bundle(tmp_path).config == small()


def test_writing_again_replaces(tmp_path):
    write_config(tmp_path, small())
    write_config(tmp_path, small(summary="short"))
    assert open_bundle(tmp_path).config.summary == "short"


def test_embedded_models_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "ASSETS", tmp_path)
    assert bundles.embedded_models() == []
    write_config(tmp_path / "nano", small())
    write_config(tmp_path / "large", small(name="large"))
    (tmp_path / "no bundle").mkdir()
    assert bundles.embedded_models() == ["large", "nano"]
    assert open_bundle("large").config.name == "large"
    assert open_bundle("large").path == tmp_path / "large"


def test_an_embedded_name_wins_over_a_folder_here(tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "ASSETS", tmp_path / "assets")
    write_config(tmp_path / "assets" / "nano", small())
    (tmp_path / "nano").mkdir()
    monkeypatch.chdir(tmp_path)
    assert open_bundle("nano").config == small()


def test_an_unknown_model_gets_a_suggestion(tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "ASSETS", tmp_path)
    write_config(tmp_path / "nano", small())
    with pytest.raises(CheckpointError, match=r"unknown model 'nanoo'; did you mean 'nano'. Allowed: nano"):
        open_bundle("nanoo")


def test_what_is_no_bundle(tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(b"x")
    for path in (tmp_path, file):
        with pytest.raises(CheckpointError, match=r"no bundle, which is a folder with a config\.json"):
            open_bundle(path)
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_bundle(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"[]", "expected settings of BundleConfig"),
        (b"null", "expected settings of BundleConfig"),
        (b"{}", "missing name, summary, licence, model, preprocessing"),
    ],
)
def test_a_damaged_config_is_named(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_bundle(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data.update(nmae="x"), "unknown setting 'nmae'; did you mean 'name'"),
        (lambda data: data.pop("licence"), "missing licence"),
        (lambda data: data.update(name=5), "name: expected str, found 5"),
        (lambda data: data["model"].update(depth=3), "model: unknown setting 'depth'"),
        (
            lambda data: data["model"].update(backbone="resnet"),
            "backbone 'resnet'. Allowed: sapiens, sapiens2, timm:NAME",
        ),
        (
            lambda data: data["preprocessing"].update(geometry="squash"),
            "preprocessing.geometry: 'squash' is not allowed",
        ),
        (lambda data: data["preprocessing"].update(std=[0.0]), "std .* must be positive"),
        (lambda data: data["labels"].update(names=["a"] * 7), "at least two distinct names"),
        (lambda data: data["labels"].update(names=["a", "b"]), "number of labels and of classes: found 2, expected 7"),
        (lambda data: data["scores"].update({"AffectNet": 0.6}), "scores.AffectNet: expected a mapping"),
        (
            lambda data: data.update(calibration={"temperature": 0}),
            "calibration: temperature 0.0 must be positive and finite",
        ),
        (
            lambda data: data.update(calibration={"temperature": float("nan")}),
            "cannot be read: 'NaN' is no finite number",
        ),
        (
            lambda data: data.update(calibration={"temperature": float("inf")}),
            "cannot be read: 'Infinity' is no finite number",
        ),
        (
            lambda data: data.update(calibration={"temperature": "1"}),
            "calibration.temperature: expected float, found '1'",
        ),
        (lambda data: data.update(abstain_below=1.01), "abstain_below 1.01 must be from 0 to 1"),
        (lambda data: data.update(format=2), "bundle format 2. Allowed: 1"),
        (lambda data: data.update(format=2, shape_of_tomorrow={}), "bundle format 2. Allowed: 1"),
    ],
)
def test_a_config_that_does_not_hold_together(tmp_path, edit, message):
    with pytest.raises(CheckpointError, match=message):
        open_bundle(edited(tmp_path, edit))


VIT = {"embed_dim": 64, "depth": 2, "num_heads": 4, "patch_padding": 0}


@pytest.mark.parametrize(
    ("vit", "message"),
    [
        ({"patch_size": 0}, "patch_size 0: must be at least 1"),
        ({"num_heads": 0}, "width 64 is not divisible by num_heads 0"),
        ({"num_heads": -4}, "num_heads -4: must be at least 0"),
        ({"mlp_ratio": 1e300}, r"mlp_ratio 1e\+300: must be at most 64"),
        ({"mlp_ratio": -4.0}, "mlp_ratio -4.0: must be at least"),
        ({"mlp_ratio": 10**400}, "mlp_ratio: the number is too large"),
        ({"depth": 200_000}, "depth 200000: must be at most 256"),
        ({"embed_dim": 2**40}, "embed_dim 1099511627776: must be at most"),
        ({"num_kv_heads": 0}, "num_kv_heads 0: must be at least 1"),
        ({"embed_dim": 8192, "patch_size": 1}, "has too many patches of 1 pixels"),
    ],
)
def test_dimensions_that_nobody_can_build(tmp_path, vit, message):
    def edit(data):
        data["model"].update(backbone="sapiens", vit=VIT | vit, image_size=[512, 512])
        data["preprocessing"]["size"] = [512, 512]

    with pytest.raises(CheckpointError, match=message):
        open_bundle(edited(tmp_path, edit))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"num_heads": 0}, "num_heads 0: must be at least 1"),
        ({"num_layers": 10**6}, "num_layers 1000000: must be at most 64"),
        ({"dim": 0}, "dim 0: must be at least 1"),
        ({"ff_dim": -1}, "ff_dim -1: must be at least 1"),
        ({"dropout": 1.5}, "dropout 1.5: must be at most 1"),
    ],
)
def test_heads_that_nobody_can_build(tmp_path, head, message):
    with pytest.raises(CheckpointError, match=message):
        open_bundle(edited(tmp_path, lambda data: data["model"]["head"].update(head)))


@pytest.mark.parametrize("size", [[0, 0], [-64, -64], [4096, 4096], [64, 10**9]])
def test_an_input_of_no_size_or_too_large(tmp_path, size):
    with pytest.raises(CheckpointError, match=r"must be at least 1x1 and at most 4194304 pixels"):
        open_bundle(edited(tmp_path, lambda data: data["model"].update(image_size=size)))


@pytest.mark.parametrize("depth", [200, 5000, 100_000])
def test_deep_settings(tmp_path, depth):
    write_config(tmp_path, small())
    file = tmp_path / "config.json"
    deep = '{"a":' * depth + "1" + "}" * depth
    file.write_text(file.read_text(encoding="utf-8").replace('"provenance": {', f'"provenance": {{"x": {deep},'))
    with pytest.raises(CheckpointError, match="nested more than 100 deep"):
        open_bundle(tmp_path)


def test_settings_without_end(tmp_path):
    write_config(tmp_path, small(summary="x" * 1_000_000))
    with pytest.raises(CheckpointError, match="has more than 1000000 bytes"):
        open_bundle(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_settings_that_are_no_regular_file(tmp_path, kind):
    file = tmp_path / "config.json"
    os.mkfifo(file) if kind == "pipe" else file.symlink_to("/dev/zero")
    for read in (open_bundle, model_fingerprint):
        with pytest.raises(CheckpointError, match=r"cannot be read: no regular file"):
            read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": LabelSet(("a", "b"))}, "bundle 'small': number of labels and of classes: found 2, expected 7"),
        (
            {"preprocessing": MOTIVNET_PAD},
            r"input size of preprocessing and model: found \(1024, 768\), expected \(64, 64\)",
        ),
        ({"model": dataclasses.replace(MODEL, in_chans=3)}, "input channels .* found 1, expected 3"),
        ({"format": 0}, "format: found 0, expected 1"),
    ],
)
def test_parts_must_fit_together(changes, message):
    with pytest.raises(CheckpointError, match=message):
        small(**changes)


def test_every_embedded_model_opens_and_says_what_it_may_be_used_for():
    for name in bundles.embedded_models():
        found = open_bundle(name).config
        assert found.name == name
        assert found.licence
        assert config.from_plain(BundleConfig, config.to_plain(found)) == found


def test_bundles_are_read_without_torch():
    code = "import sys, motivnet.checkpoints.bundle; print({'torch', 'cv2', 'onnxruntime'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle.path, tmp_path / "copy")
    return open_bundle(tmp_path / "copy")


def test_a_copy_is_the_same_model_whatever_is_said_of_it(tiny_bundle, copy):
    before = model_fingerprint(tiny_bundle.path)
    assert re.fullmatch("m[0-9a-f]{12}", before)
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
    assert model_fingerprint("nano") == model_fingerprint(ASSETS / "nano")
    weights = tmp_path / "MotivNet.pth"
    weights.write_bytes(b"abc")
    assert model_fingerprint(weights) == "mba7816bf8f01"  # the SHA-256 of abc begins so


def test_what_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="unknown model"):
        model_fingerprint(tmp_path / "none")


def test_a_setting_that_came_later_makes_another_model_only_where_it_is_on(copy):
    # As the model was published: a setting that comes later must not change it.
    assert model_fingerprint("nano") == "m59df83540385"
    before = model_fingerprint(copy.path)
    for changes in ({"affect": True}, {"head": dataclasses.replace(copy.config.model.head, learnable_queries=True)}):
        model = dataclasses.replace(copy.config.model, **changes)
        write_config(copy.path, dataclasses.replace(copy.config, model=model))
        assert model_fingerprint(copy.path) != before


def test_models_are_listed_by_pattern():
    assert list_models() == embedded_models()
    assert "nano" in list_models()
    assert list_models("sapiens-pose-*") == []
    assert list_models("sapiens-pose-*", released=True) == ["sapiens-pose-0.3b", "sapiens-pose-0.6b", "sapiens-pose-1b"]

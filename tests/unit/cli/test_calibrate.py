"""`motivnet calibrate`: what it writes, where, and what it leaves alone."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("pyarrow", reason="the extra `evaluate` is not installed")

from motivnet.checkpoints import bundle as bundles
from motivnet.checkpoints.bundle import Bundle, Calibration, open_bundle, write_config
from motivnet.cli.main import app
from motivnet.config import to_plain
from motivnet.errors import CheckpointError, ConfigError, DataError, MotivNetError, OutputError
from motivnet.inference.predictor import Predictor
from motivnet.labels import EMOTIONS

TRUE_TEMPERATURE = 2.0


@pytest.fixture(scope="module")
def csv(tmp_path_factory) -> Path:
    """Grey images whose labels are drawn as the tiny model would have them at temperature 2."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    lines = ["path,label,split"]
    bias, slope = np.array([1, 0, 0, -1, -2, -3, -4]), np.array([0, 4, -4, 0, 0, 0, 0])
    for level in range(0, 256, 16):
        Image.new("L", (16, 16), level).save(folder / f"{level}.png")
        probs_BC = Calibration().probs((bias + slope * (level - 127.5) / 127.5)[None] / TRUE_TEMPERATURE)
        for number, label in enumerate(rng.choice(7, size=40, p=probs_BC[0])):
            shutil.copyfile(folder / f"{level}.png", folder / f"{level}-{number}.png")
            lines.append(f"{level}-{number}.png,{EMOTIONS.names[label]},val")
    lines.append("0.png,sadness,test")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


@pytest.fixture
def mine(tmp_path, tiny_bundle) -> Bundle:
    shutil.copytree(tiny_bundle.path, tmp_path / "mine")
    return open_bundle(tmp_path / "mine")


def run(*arguments: object):
    return CliRunner().invoke(app, ["calibrate", *map(str, arguments)])


def refused(done, error: type[MotivNetError], message: str) -> None:
    assert isinstance(done.exception, error), done.output
    with pytest.raises(error, match=message):
        raise done.exception


def test_a_users_bundle_is_calibrated_in_place(mine, csv):
    before = Predictor.load(mine.path, detector="whole").predict(csv.parent / "64.png")
    weights = mine.onnx.read_bytes()
    done = run(mine.path, "--data", f"csv:{csv}", "--split", "val")
    assert done.exit_code == 0, done.output
    found = open_bundle(mine.path).config
    assert found.calibration.temperature == pytest.approx(TRUE_TEMPERATURE, rel=0.2)
    record = found.provenance["calibration"]
    assert (record["n"], record["split"]) == (640, "val")
    assert record["log_loss"]["after"] < record["log_loss"]["before"]
    assert (
        f"temperature {found.calibration.temperature:.4f}, exponent 1.0000, fitted on 640 images of val" in done.stdout
    )
    # The ONNX file states no temperature, so nothing in it is wrong now.
    assert mine.onnx.read_bytes() == weights
    after = Predictor.load(mine.path, detector="whole").predict(csv.parent / "64.png")
    assert after[0].faces[0].emotion == before[0].faces[0].emotion
    assert max(after[0].faces[0].probs.values()) < max(before[0].faces[0].probs.values())
    # Once is enough, unless it is asked for; then the same comes out.
    refused(run(mine.path, "--data", f"csv:{csv}", "--split", "val"), OutputError, "is calibrated already")
    assert run(mine.path, "--data", f"csv:{csv}", "--split", "val", "--overwrite").exit_code == 0
    assert open_bundle(mine.path).config.calibration.temperature == pytest.approx(
        found.calibration.temperature, rel=1e-4
    )


def test_a_wanted_accuracy_is_stored_and_can_be_used(mine, csv):
    done = run(mine.path, "--data", f"csv:{csv}", "--split", "val", "--accuracy", 0.7, "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["bundle"] == str(mine.path)
    stored = open_bundle(mine.path).config.abstain_below
    assert stored == record["abstention"]["abstain_below"]
    assert record["abstention"]["accuracy"] >= 0.7
    assert 0 < record["abstention"]["coverage"] < 1
    predictor = Predictor.load(mine.path, detector="whole", abstain_below="stored")
    results = predictor.predict([csv.parent / f"{level}.png" for level in range(0, 256, 16)])
    # Every level stands for 40 images.
    answered = sum(not result.faces[0].abstained for result in results) / len(results)
    assert answered == pytest.approx(record["abstention"]["coverage"])


def test_out_writes_a_copy_and_leaves_the_original(mine, csv, tmp_path):
    before = {file.name: file.read_bytes() for file in mine.path.iterdir()}
    (mine.path / "notes.txt").write_text("not of the bundle")
    out = tmp_path / "new" / "calibrated"
    done = run(mine.path, "--data", f"csv:{csv}", "--split", "val", "--out", out)
    assert done.exit_code == 0, done.output
    assert {file.name for file in out.iterdir()} == set(before)
    assert open_bundle(out).config.calibration.temperature != 1
    assert {name: (mine.path / name).read_bytes() for name in before} == before
    assert [path.name for path in out.parent.iterdir()] == ["calibrated"]
    again = ("--data", f"csv:{csv}", "--split", "val", "--out", out)
    refused(run(mine.path, *again), OutputError, "exists already")
    assert run(mine.path, *again, "--overwrite").exit_code == 0
    # A folder that is no bundle is never replaced.
    refused(run(mine.path, *again[:-1], tmp_path, "--overwrite"), OutputError, "no bundle, so it is not replaced")


def test_an_onnx_file_that_states_a_temperature_states_the_new_one(mine, csv):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(mine.onnx)
    props = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, props | {"calibration": '{"temperature": 1.0, "exponent": 1.0}'})
    onnx.save(model, mine.onnx)
    assert run(mine.path, "--data", f"csv:{csv}", "--split", "val").exit_code == 0
    said = {entry.key: entry.value for entry in onnx.load(mine.onnx).metadata_props}
    assert json.loads(said["calibration"]) == to_plain(open_bundle(mine.path).config.calibration)
    assert Predictor.load(mine.path, detector="whole").predict(csv.parent / "0.png")[0].status == "ok"


def test_models_of_the_package_are_left_alone(tmp_path, tiny_bundle, csv, monkeypatch):
    shutil.copytree(tiny_bundle.path, tmp_path / "assets" / "tiny")
    monkeypatch.setattr(bundles, "ASSETS", tmp_path / "assets")
    known = ("tiny", "--data", f"csv:{csv}", "--split", "val")
    refused(run(*known), OutputError, "tiny is part of the package. Allowed: --out DIR, or --overwrite")
    assert run(*known, "--out", tmp_path / "out").exit_code == 0
    assert open_bundle("tiny").config.calibration.temperature == 1
    assert run(*known, "--overwrite").exit_code == 0
    assert open_bundle("tiny").config == open_bundle(tmp_path / "out").config


def test_mistakes(mine, csv, tmp_path):
    data = ("--data", f"csv:{csv}")
    refused(run(mine.path, *data, "--split", "tset"), DataError, "no rows in split 'tset'. Allowed: test, val")
    refused(run("nanno", *data, "--split", "val"), CheckpointError, "unknown model 'nanno'")
    (tmp_path / "MotivNet.pth").write_bytes(b"x")
    refused(run(tmp_path / "MotivNet.pth", *data, "--split", "val"), CheckpointError, "motivnet weights convert")
    refused(run(mine.path, *data, "--split", "test"), DataError, "no temperature")
    refused(run(mine.path, *data, "--split", "val", "--accuracy", 1.5), DataError, "accuracy must be above 0")
    assert open_bundle(mine.path).config == mine.config
    refused(run(mine.path, *data), ConfigError, "no split. Allowed: KIND:PATH@SPLIT")


def test_a_bundle_that_cannot_be_written_to(mine, csv, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("motivnet.storage._sync", refuse)
    done = run(mine.path, "--data", f"csv:{csv}", "--split", "val")
    refused(done, OutputError, "cannot be written: Permission denied")
    monkeypatch.undo()
    assert open_bundle(mine.path).config == mine.config


def test_a_bundles_own_remarks_survive(mine, csv):
    write_config(mine.path, dataclasses.replace(mine.config, provenance={"recipe": {"epochs": 3}}))
    assert run(mine.path, "--data", f"csv:{csv}", "--split", "val").exit_code == 0
    found = open_bundle(mine.path).config
    assert found.provenance["recipe"] == {"epochs": 3}
    assert found.scores == mine.config.scores

import dataclasses
import json
import shutil

import pytest
from typer.testing import CliRunner

from motivnet.checkpoints import bundle
from motivnet.cli.main import app


@pytest.fixture
def assets(tmp_path, tiny_bundle, monkeypatch):
    monkeypatch.setattr(bundle, "ASSETS", tmp_path)
    shutil.copytree(tiny_bundle.path, tmp_path / "tiny")
    return tmp_path


def test_json_says_all_a_choice_needs(assets, tiny_bundle):
    done = CliRunner().invoke(app, ["models", "--json"])
    assert done.exit_code == 0
    (line,) = done.stdout.splitlines()
    assert json.loads(line) == {
        "name": "tiny",
        "summary": "Judges by mean brightness, for tests",
        "licence": "Apache-2.0",
        "labels": list(tiny_bundle.config.labels),
        "preprocessing": tiny_bundle.config.preprocessing.fingerprint,
        "scores": {"fer2013/PrivateTest": {"war": 0.25, "uar": 0.125}},
        "calibration": {"temperature": 1.0, "exponent": 1.0},
        "abstain_below": None,
    }


def test_the_table_names_licence_and_scores(assets):
    done = CliRunner().invoke(app, ["models"])
    assert done.exit_code == 0
    for text in (
        "tiny",
        "Judges by mean brightness, for tests",
        "Apache-2.0",
        "fer2013/PrivateTest: war 0.25, uar 0.125",
    ):
        assert text in done.stdout


def test_the_table_says_when_a_model_is_calibrated(assets, tiny_bundle):
    assert "calibrated" not in CliRunner().invoke(app, ["models"]).stdout
    bundle.write_config(
        assets / "tiny", dataclasses.replace(tiny_bundle.config, calibration=bundle.Calibration(temperature=0.75))
    )
    assert "calibrated: temperature 0.750" in CliRunner().invoke(app, ["models"]).stdout


def test_an_installation_without_models_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "ASSETS", tmp_path)
    done = CliRunner().invoke(app, ["models"])
    assert (done.exit_code, done.stdout) == (0, "")
    assert "No model" in done.stderr

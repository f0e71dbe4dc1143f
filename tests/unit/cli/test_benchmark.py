import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from motivnet.cli.main import app
from motivnet.errors import ConfigError, OutputError


@pytest.fixture
def faces(tmp_path):
    for label, value in (("happiness", 230), ("sadness", 20), ("neutral", 128)):
        folder = tmp_path / "faces" / label
        folder.mkdir(parents=True)
        for number in range(3):
            Image.fromarray(np.full((16, 16), value + number, np.uint8)).save(folder / f"{number}.png")
    return f"folder:{tmp_path / 'faces'}"


def run(*arguments):
    return CliRunner().invoke(app, ["benchmark", *map(str, arguments)])


def test_it_writes_three_files_and_keeps_predictions(tmp_path, tiny_bundle, faces):
    done = run("--model", tiny_bundle.path, "--data", faces, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "benchmark.md",
        "benchmark.html",
        "benchmark.json",
        "predictions",
    }
    head, line = done.stdout.splitlines()
    assert head.split()[:3] == ["data", "set", "model"]
    assert "100.0 %" in line
    assert "training data not stated" in line
    assert "written to" in done.stderr


def test_what_was_skipped_decides_the_exit_code(tmp_path, tiny_bundle, faces):
    done = run(
        *("--model", tiny_bundle.path, "--data", faces, "--data", "jaffe:/nowhere", "--out", tmp_path / "out"),
        *("--trained-on", f"{tiny_bundle.path}=JAFFE,RAF-DB", "--json"),
    )
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told == json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert [each["data"] for each in told["skipped"]] == ["JAFFE"]
    assert told["cells"][0]["setting"] == "zero-shot"
    assert told["models"][0]["trained_on"] == ["jaffe", "rafdb"]
    assert "skipped every model on JAFFE" in done.stderr


def test_a_model_trained_on_nothing(tmp_path, tiny_bundle, faces):
    done = run(
        *("--model", tiny_bundle.path, "--data", faces, "--out", tmp_path / "out", "--folds", "0"),
        *("--trained-on", f"{tiny_bundle.path}=none", "--restrict-probs", "renormalise", "--json"),
    )
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["models"][0]["trained_on"] == []
    assert told["settings"]["restrict"] == "renormalise"


def test_results_are_not_overwritten_and_predictions_used_again(tmp_path, tiny_bundle, faces):
    arguments = ("--model", tiny_bundle.path, "--data", faces, "--out", tmp_path / "out")
    assert run(*arguments).exit_code == 0
    refused = run(*arguments)
    assert isinstance(refused.exception, OutputError)
    assert "--overwrite" in str(refused.exception)
    again = run(*arguments, "--overwrite")
    assert again.exit_code == 0
    assert "predictions reused" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--folds", "1"), "--folds 1"),
        (("--trained-on", "JAFFE"), "MODEL=NAME"),
        (("--trained-on", "nano="), "MODEL=NAME"),
        (("--trained-on", "other=JAFFE"), "unknown model 'other'"),
        (("--detect", "JAFFE"), "unknown data set 'JAFFE'"),
    ],
)
def test_mistakes_are_told_before_any_work(tmp_path, arguments, message):
    done = run("--model", "nano", "--data", "folder:x", "--out", tmp_path / "out", *arguments)
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)
    assert not (tmp_path / "out").exists()

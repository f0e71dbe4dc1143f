import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from motivnet.checkpoints.bundle import write_config
from motivnet.cli.main import app
from motivnet.data.clean import picture_keys, some_pictures
from motivnet.data.sources.named import read_source
from motivnet.errors import ConfigError, DataError, OutputError


@pytest.fixture
def faces(tmp_path):
    """A CSV of 240 pictures: half of those at site B look like another emotion."""
    labels = {"happiness": 230, "sadness": 20, "neutral": 128}
    rows = []
    for number in range(240):
        label, site = list(labels)[number % 3], "AB"[number % 2]
        looks = "sadness" if site == "B" and number % 4 == 1 else label
        pixels = np.full((16, 16), labels[looks], np.uint8)
        pixels.flat[number % 256] -= 1
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append((f"{number}.png", label, site))
    write(tmp_path / "faces.csv", ("path", "label", "site"), *rows)
    return f"csv:{tmp_path / 'faces.csv'}"


def write(path, *rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def test_a_gap_is_found_said_and_written(tmp_path, tiny_bundle, faces):
    done = run("--model", tiny_bundle.path, "--data", faces, "--by", "site", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"audit.md", "audit.html", "audit.json"}
    assert (
        "site 'A': among faces of the same label, 33.3 points more are classified correctly than in 'B'" in done.stdout
    )
    told = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert {group["name"]: group["n"] for group in told["groups"]} == {"A": 120, "B": 120}
    assert told["protocol"]["model_fingerprint"]


def test_answers_of_another_tool_and_groups_of_ones_own(tmp_path, faces):
    answers = [(f"{number}.png", ("happiness", "sadness", "neutral")[number % 3]) for number in range(240)]
    file = write(tmp_path / "answers.csv", ("path", "pred"), *answers)
    glasses = write(tmp_path / "g.csv", ("path", "glasses"), *((f"{n}.png", "yno"[n % 3]) for n in range(200)))
    done = run(
        *("--predictions", file, "--data", faces, "--by", "glasses", "--by", "site", "--groups-csv", glasses),
        *("--out", tmp_path / "out", "--min-size", "10", "--json"),
    )
    assert done.exit_code == 0, done.exception
    told = json.loads(done.stdout)
    assert told["ungrouped"] == {"glasses": 40, "site": 0}
    assert {group["war"] for group in told["groups"]} == {1.0}
    assert not any(gap["found"] for group in told["groups"] for gap in group["gaps"])
    assert told["min_size"] == 10


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((), ConfigError, "either model or predictions"),
        (("--model", "nano", "--predictions", "x.csv"), ConfigError, "either model or predictions"),
        (("--predictions", "x.csv", "--detect"), ConfigError, "predictions are answers already"),
        (("--model", "nano", "--by", "sight"), DataError, "did you mean 'site'"),
        (("--model", "nano", "--by", "duplicate"), DataError, "the one training split"),
    ],
)
def test_mistakes(tmp_path, faces, arguments, error, message):
    done = run("--data", faces, "--by", "site", "--out", tmp_path / "out", *arguments)
    assert isinstance(done.exception, error), done.exception
    assert message in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_results_are_not_overwritten(tmp_path, faces):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "audit.json").write_text("{}")
    done = run("--model", "nano", "--data", faces, "--by", "site", "--out", tmp_path / "out")
    assert isinstance(done.exception, OutputError)


@pytest.mark.parametrize("own", [True, False])
def test_images_that_the_model_was_trained_on_are_warned_of(tmp_path, tiny_bundle, faces, own):
    keys = picture_keys(read_source(faces))[0] if own else ["0" * 40]
    provenance = {
        "recipe": {"split": {"train": "Training"}},
        "training_rows": {"pictures": some_pictures(np.array(keys))},
    }
    shutil.copytree(tiny_bundle.path, tmp_path / "trained")
    write_config(tmp_path / "trained", dataclasses.replace(tiny_bundle.config, provenance=provenance))
    done = run("--model", tmp_path / "trained", "--data", faces, "--by", "site", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.exception
    assert ("trained was trained on such images" in done.stdout) is own
    assert ("trained was trained on such images" in (tmp_path / "out/audit.md").read_text()) is own

"""`motivnet evaluate` as a user runs it: the contract on FER-2013, a small folder, another tool's answers, mistakes."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from motivnet.labels import EMOTIONS

ROOT = Path(__file__).parents[2]
FILES = {"metrics.json", "predictions.parquet", "report.html"}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from motivnet.cli.main import main; main()", "evaluate", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of flat images: what the tiny model judges rightly but for one mistake, and a file that is no image."""
    values = {"happiness": [250, 240, 10], "sadness": [0, 5], "neutral": [127]}
    for label, greys in values.items():
        (tmp_path / "data" / label).mkdir(parents=True)
        for i, grey in enumerate(greys):
            Image.new("L", (24, 24), grey).save(tmp_path / "data" / label / f"{i}.png")
    (tmp_path / "data" / "neutral" / "<b>broken.png").write_bytes(b"no image")
    return tmp_path / "data"


def test_fer2013_as_the_contract_has_it(shared_dir: Path, tmp_path: Path) -> None:
    source = f"fer2013:{shared_dir / 'data/fer2013/fer2013.parquet'}"
    out = tmp_path / "out"
    done = run("--model", "nano", "--data", source, "--split", "PrivateTest", "--out", out)
    assert done.returncode == 0, done.stderr
    assert names(out) == FILES
    found = json.loads((out / "metrics.json").read_text())
    contract = [
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
    assert set(contract) <= set(found)
    assert found["n"] == 3589
    scores = json.loads((ROOT / "benchmarks" / "results" / "nano_scores.json").read_text(encoding="utf-8"))["scores"]
    measured = scores["fp32"]["FER-2013 PrivateTest, its own labels"]
    wanted = ("war", "uar", "f1_macro", "ece")
    assert [found[name] for name in wanted] == pytest.approx([measured[name] for name in wanted], abs=5e-4)
    assert found["intervals"]["war"][0] < found["war"] < found["intervals"]["war"][1]
    protocol = found["protocol"]
    assert (protocol["model"], protocol["data"], protocol["split"]) == ("nano", source, "PrivateTest")
    assert protocol["detection"] == "none: images are crops"
    assert protocol["n"] == 3589
    rows = pq.read_table(out / "predictions.parquet")
    assert rows.num_rows == 3589
    right = sum(pred == label for pred, label in zip(rows["pred"].to_pylist(), rows["label"].to_pylist(), strict=True))
    assert right / 3589 == pytest.approx(found["war"])
    assert (out / "report.html").read_text().count("data:image/png") == 24
    assert "face detection: none: images are crops" in done.stderr


class TestFolder:
    def evaluate(self, data: Path, bundle, out: Path, *options: object):
        done = run("--model", bundle.path, "--data", f"folder:{data}", "--out", out, *options)
        assert done.returncode == 0, done.stderr
        return done, json.loads((out / "metrics.json").read_text())

    def test_everything_is_counted_and_said(self, data, tiny_bundle, tmp_path):
        out = tmp_path / "deep" / "out"
        done, found = self.evaluate(data, tiny_bundle, out)
        assert (found["n"], found["status"]) == (7, {"ok": 6, "no_face": 0, "unreadable": 1})
        assert found["war"] == pytest.approx(5 / 7)
        assert found["per_class"]["neutral"]["recall"] == pytest.approx(1 / 2)
        assert "1 cannot be read: counted as errors" in done.stderr
        assert "broken.png: not an image" in done.stderr
        assert "WAR    71.4 %" in done.stdout
        page = (out / "report.html").read_text()
        assert "<b>broken" not in page
        assert page.count("data:image/png") == 1
        assert "row 2" in page
        _, left_out = self.evaluate(data, tiny_bundle, tmp_path / "again", "--unanswered", "leave-out")
        assert (left_out["n"], left_out["war"]) == (6, pytest.approx(5 / 6))
        assert left_out["protocol"]["unanswered"] == "left out"

    def test_detection_is_said_and_misses_are_errors(self, data, tiny_bundle, tmp_path):
        done, found = self.evaluate(data, tiny_bundle, tmp_path / "out", "--detect")
        assert found["protocol"]["detection"] == "yunet: the largest face counts"
        assert found["status"] == {"ok": 0, "no_face": 6, "unreadable": 1}
        assert found["war"] == 0
        assert "6 show no face: counted as errors" in done.stderr
        assert "no answer" in (tmp_path / "out" / "report.html").read_text()

    def test_results_are_replaced_only_on_demand_and_json_is_the_file(self, data, tiny_bundle, tmp_path):
        out = tmp_path / "out"
        done, found = self.evaluate(data, tiny_bundle, out, "--json", "--no-thumbnails")
        assert json.loads(done.stdout) == found
        assert "data:image/png" not in (out / "report.html").read_text()
        again = run("--model", tiny_bundle.path, "--data", f"folder:{data}", "--out", out)
        assert (again.returncode, again.stdout) == (2, "")
        assert "--overwrite" in again.stderr
        before = {name: (out / name).read_bytes() for name in FILES}
        self.evaluate(data, tiny_bundle, out, "--overwrite", "--no-thumbnails")
        assert {name: (out / name).read_bytes() for name in FILES} == before
        assert names(tmp_path) == {"data", "out"}

    def test_answers_of_another_tool(self, data, tiny_bundle, tmp_path):
        answers = tmp_path / "answers.csv"
        files = sorted(data.rglob("*.png"))
        with answers.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "pred"])
            writer.writerows([path.relative_to(data), path.parent.name] for path in reversed(files))
        done = run("--predictions", answers, "--data", f"folder:{data}", "--out", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert (found["n"], found["war"], found["ece"]) == (7, 1.0, None)
        assert found["protocol"]["model"] == "answers.csv"
        assert found["protocol"]["detection"] == "unknown: answers of another tool"

    def test_our_own_file_gives_the_same_metrics(self, data, tiny_bundle, tmp_path):
        _, found = self.evaluate(data, tiny_bundle, tmp_path / "one")
        own = tmp_path / "one" / "predictions.parquet"
        done = run("--predictions", own, "--data", f"folder:{data}", "--out", tmp_path / "two")
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "two" / "metrics.json").read_text()) == found


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        (("--model", "nana", "--data", "folder:{data}"), ["unknown model 'nana'"]),
        (("--model", "nano", "--data", "{data}"), ["KIND:PATH"]),
        (("--model", "nano", "--data", "folders:{data}"), ["did you mean 'folder'"]),
        (("--model", "nano", "--data", "folder:{data}", "--split", "test"), ["no rows in split 'test'", "all"]),
        (("--predictions", "{data}/none.csv", "--data", "folder:{data}"), ["none.csv", "cannot be read"]),
        (("--model", "nano", "--data", "folder:{data}", "--detect", "--detector", "eyes"), ["detector 'eyes'"]),
    ],
    ids=["model", "no kind", "kind", "split", "predictions", "detector"],
)
def test_a_mistake_is_one_line_and_leaves_nothing(data, tmp_path, options, texts):
    out = tmp_path / "out"
    done = run(*[option.format(data=data) for option in options], "--out", out)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for text in texts:
        assert text in done.stderr
    assert not out.exists()


def test_every_emotion_has_a_row_in_the_report(data, tiny_bundle, tmp_path):
    rng = np.random.default_rng(0)
    for label in EMOTIONS:
        (data / label).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (24, 24), dtype=np.uint8)).save(data / label / "r.png")
    done = run("--model", tiny_bundle.path, "--data", f"folder:{data}", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    for label in EMOTIONS:
        assert f'<th scope="row">{label}</th>' in page

"""The verbs of `motivnet data`."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from motivnet.cli.main import app
from motivnet.data.manifest import read_manifest
from motivnet.errors import ConfigError, DataError, MotivNetError, OutputError


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def refused(error: type[MotivNetError], message: str, *arguments: str | Path) -> None:
    """Check that the arguments end in an error, which the program turns into one line and exit code 2."""
    done = run(*arguments)
    assert isinstance(done.exception, error), done.output
    assert message in str(done.exception)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """train: 6 of happiness, 3 of fear, 2 of anger; test: 1 of fear, which is in train as well."""
    folder, rng = tmp_path / "faces", np.random.default_rng(0)
    for place, number in (("train/happy", 6), ("train/fear", 3), ("train/anger", 2), ("test/fear", 0)):
        (folder / place).mkdir(parents=True)
        for i in range(number):
            values = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            image = Image.fromarray(values).resize((48, 48), Image.Resampling.BICUBIC)
            image.save(folder / place / f"{i}.png")
    (folder / "test/fear/copy.png").write_bytes((folder / "train/fear/0.png").read_bytes())
    return folder


class TestInspect:
    def test_tables_on_stdout(self, faces: Path) -> None:
        done = run("inspect", f"folder:{faces}")
        assert done.exit_code == 0
        lines = [line.split() for line in done.stdout.splitlines()]
        assert ["label", "test", "train"] in lines
        assert ["happiness", "0", "6"] in lines
        assert ["all", "1", "11"] in lines
        assert "problems: duplicate 1" in done.stderr

    def test_json(self, faces: Path) -> None:
        done = run("inspect", f"folder:{faces}", "--json")
        found = json.loads(done.stdout)
        assert found["rows"] == 12
        assert found["problems"] == {"duplicate": {"rows": 1, "across_splits": 1, "other_label": 0}}
        assert found["copies"]["exact"]["test"]["train"] == 1

    def test_strict_is_exit_code_1_where_there_is_a_problem(self, faces: Path) -> None:
        assert run("inspect", f"folder:{faces}", "--strict").exit_code == 1
        assert run("inspect", f"folder:{faces}", "--strict", "--no-pixels").exit_code == 0
        done = run("inspect", f"folder:{faces}", "--strict", "--split", "train")
        assert done.exit_code == 0
        assert "problems: none" in done.stderr

    def test_out_lists_problems_and_draws_sheets(self, faces: Path, tmp_path: Path) -> None:
        out = tmp_path / "report"
        assert run("inspect", f"folder:{faces}", "--out", out).exit_code == 0
        sheets = {f"sheet_{label}.png" for label in read_labels(out)}
        assert {file.name for file in out.iterdir()} == {"problems.csv", "problems.parquet", "summary.json"} | sheets
        (row,) = pq.read_table(out / "problems.parquet").to_pylist()
        with (out / "problems.csv").open(newline="") as file:
            (as_text,) = csv.DictReader(file)
        assert as_text["kind"] == row["kind"] == "duplicate"
        assert row["path"].endswith("train/fear/0.png")
        assert row["other_path"].endswith("test/fear/copy.png")
        with Image.open(out / "sheet_happiness.png") as sheet:
            assert sheet.width > 1000

    def test_cells_of_the_csv_file_are_no_formulas(self, tmp_path: Path) -> None:
        folder = tmp_path / "faces" / "=1+1" / "happy"
        folder.mkdir(parents=True)
        Image.new("L", (8, 8)).save(folder / "blank.png")
        assert run("inspect", f"folder:{tmp_path / 'faces'}", "--out", tmp_path / "report").exit_code == 0
        with (tmp_path / "report" / "problems.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
        assert (row["kind"], row["split"]) == ("blank", "'=1+1")

    def test_no_pixels_draws_nothing(self, faces: Path, tmp_path: Path) -> None:
        run("inspect", f"folder:{faces}", "--out", tmp_path / "report", "--no-pixels")
        assert not list((tmp_path / "report").glob("*.png"))

    def test_nothing_is_overwritten_unasked(self, faces: Path, tmp_path: Path) -> None:
        out = tmp_path / "report"
        out.mkdir()
        (out / "sheet_contempt.png").write_bytes(b"of an earlier inspection")
        (out / "notes.txt").write_text("mine")
        refused(OutputError, "holds sheet_contempt.png already", "inspect", f"folder:{faces}", "--out", out)
        assert run("inspect", f"folder:{faces}", "--out", out, "--overwrite").exit_code == 0
        assert not (out / "sheet_contempt.png").exists()
        assert (out / "notes.txt").read_text() == "mine"

    def test_wrong_places(self, faces: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        source = f"folder:{faces}"
        refused(OutputError, "is a file, expected a folder", "inspect", source, "--out", tmp_path / "file")
        refused(OutputError, "does not exist", "inspect", source, "--out", tmp_path / "absent" / "report")
        refused(DataError, "no rows in split 'dev'. Allowed: test, train", "inspect", source, "--split", "dev")
        refused(DataError, "did you mean 'folder'", "inspect", f"foldr:{faces}")


def read_labels(out: Path) -> list[str]:
    return json.loads((out / "summary.json").read_text())["labels"]


class TestBuild:
    def test_a_manifest_is_read_again(self, faces: Path, tmp_path: Path) -> None:
        out = tmp_path / "manifest.parquet"
        done = run("build", f"folder:{faces}", "--out", out, "--json")
        assert done.exit_code == 0
        assert json.loads(done.stdout)["counts"]["train"]["happiness"] == 6
        assert len(read_manifest(out)) == 12
        again = run("inspect", f"manifest:{out}", "--json")
        assert json.loads(again.stdout)["problems"]["duplicate"]["rows"] == 1
        assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []

    def test_labels_are_restricted_and_counted(self, tmp_path: Path) -> None:
        image = tmp_path / "face.png"
        Image.new("L", (8, 8)).save(image)
        table = tmp_path / "rows.csv"
        table.write_text("path,label,split\nface.png,contempt,train\nface2.png,fear,train\n")
        image.with_name("face2.png").write_bytes(image.read_bytes())
        out = tmp_path / "manifest.parquet"
        done = run("build", f"csv:{table}", "--out", out, "--labels", "7")
        assert done.exit_code == 0, done.exception
        assert "label contempt" in done.stdout
        assert read_manifest(out).dropped == {"label contempt": 1}
        run("build", f"csv:{table}", "--out", out, "--overwrite")
        assert read_manifest(out).table["label"].to_pylist() == ["contempt", "fear"]

    def test_mistakes(self, faces: Path, tmp_path: Path) -> None:
        out, source = tmp_path / "manifest.parquet", f"folder:{faces}"
        refused(ConfigError, "labels '9'. Allowed: 7, 8", "build", source, "--out", out, "--labels", "9")
        assert not out.exists()
        refused(OutputError, "is a .parquet file", "build", source, "--out", tmp_path / "manifest.csv")
        out.write_bytes(b"mine")
        refused(OutputError, "exists already", "build", source, "--out", out)
        assert out.read_bytes() == b"mine"


class TestSample:
    def test_uniform(self, faces: Path, tmp_path: Path) -> None:
        """Only three classes have rows here, which uniform sampling of seven cannot do."""
        out, source = tmp_path / "sample.parquet", f"folder:{faces}"
        refused(DataError, "neutral has 0 rows", "sample", source, "--split", "train", "--out", out)
        assert not out.exists()

    def test_each_class_equally_often(self, tmp_path: Path) -> None:
        folder = seven_classes(tmp_path)
        out = tmp_path / "sample.parquet"
        done = run("sample", f"folder:{folder}", "--split", "train", "--per-class", "2", "--seed", "3", "--out", out)
        assert done.exit_code == 0, done.exception
        chosen = read_manifest(out)
        assert set(chosen.counts()["train"].values()) == {2}
        first = chosen.table["path"].to_pylist()
        run("sample", f"folder:{folder}", "--per-class", "2", "--seed", "3", "--out", out, "--overwrite")
        assert read_manifest(out).table["path"].to_pylist() == first
        run("sample", f"folder:{folder}", "--per-class", "2", "--seed", "4", "--out", out, "--overwrite")
        assert read_manifest(out).table["path"].to_pylist() != first

    def test_balanced(self, tmp_path: Path) -> None:
        out = tmp_path / "sample.parquet"
        done = run("sample", f"folder:{seven_classes(tmp_path)}", "--kind", "balanced", "--out", out)
        assert done.exit_code == 0, done.exception
        assert len(read_manifest(out)) == sum(range(2, 9))

    def test_mistakes(self, faces: Path, tmp_path: Path) -> None:
        out, source = tmp_path / "sample.parquet", f"folder:{faces}"
        refused(ConfigError, "Allowed: uniform, balanced", "sample", source, "--kind", "natural", "--out", out)
        options = ["--kind", "balanced", "--per-class", "3"]
        refused(ConfigError, "belongs to --kind uniform", "sample", source, *options, "--out", out)


def seven_classes(tmp_path: Path) -> Path:
    """Lay out two files of the first class, three of the second, and so on; their content does not matter."""
    folder = tmp_path / "seven"
    names = ["neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger"]
    for number, name in enumerate(names, start=2):
        (folder / "train" / name).mkdir(parents=True)
        for i in range(number):
            (folder / "train" / name / f"{i}.png").write_bytes(b"")
    return folder

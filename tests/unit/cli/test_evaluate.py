import json

import pytest
from typer.testing import CliRunner

from motivnet.cli.main import app
from motivnet.cli.progress import track
from motivnet.errors import ConfigError, DataError, OutputError
from motivnet.inference.tables import check_folder, open_folder

NAMES = ("rows.txt", "page.txt")


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


class TestFolder:
    def write(self, folder, text="new", *, overwrite=False):
        with open_folder(folder, NAMES, overwrite=overwrite) as place:
            for name in NAMES:
                (place / name).write_text(text)

    def test_is_made_with_its_parents(self, tmp_path):
        self.write(tmp_path / "a" / "b")
        assert contents(tmp_path / "a" / "b") == dict.fromkeys(NAMES, "new")
        assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]

    def test_that_holds_results_is_refused_unless_they_are_to_be_replaced(self, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        self.write(tmp_path, "old")
        with pytest.raises(OutputError, match=r"holds rows\.txt, page\.txt already; --overwrite"):
            check_folder(tmp_path, NAMES, overwrite=False)
        with pytest.raises(OutputError, match="--overwrite"):
            self.write(tmp_path)
        assert contents(tmp_path) == {"notes.txt": "mine"} | dict.fromkeys(NAMES, "old")
        self.write(tmp_path, overwrite=True)
        assert contents(tmp_path) == {"notes.txt": "mine"} | dict.fromkeys(NAMES, "new")

    def test_an_error_leaves_nothing(self, tmp_path):
        def fail():
            with open_folder(tmp_path / "out", NAMES, overwrite=False) as place:
                (place / NAMES[0]).write_text("half")
                raise DataError("on the way")

        with pytest.raises(DataError, match="on the way"):
            fail()
        assert list(tmp_path.iterdir()) == []

    def test_a_file_in_its_place_is_an_error(self, tmp_path):
        (tmp_path / "out").write_text("a file")
        with pytest.raises(OutputError, match="is a file, expected a folder"):
            check_folder(tmp_path / "out", NAMES, overwrite=True)
        with pytest.raises(OutputError, match="cannot be written"):
            self.write(tmp_path / "out" / "deeper")


def test_items_pass_the_progress_bar_as_they_are():
    assert list(track(iter("abc"), total=3, what="letters")) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "either --model or --predictions"),
        (("--model", "nano", "--predictions", "x.csv"), "either --model or --predictions"),
        (("--predictions", "x.csv", "--detect"), "--predictions are answers already"),
        (("--model", "nano", "--size", "large"), "Allowed: HEIGHTxWIDTH"),
    ],
)
def test_options_that_contradict_each_other(tmp_path, options, message):
    result = CliRunner().invoke(app, ["evaluate", "--data", "folder:x", "--out", str(tmp_path / "out"), *options])
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_results_are_refused_before_any_work(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({}))
    arguments = ["evaluate", "--data", "folder:none", "--model", "none", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, OutputError)
    assert "holds metrics.json already" in str(result.exception)

import json

import pytest
from typer.testing import CliRunner

from motivnet.cli.console import track
from motivnet.cli.main import app
from motivnet.errors import ConfigError, OutputError


def test_items_pass_the_progress_bar_as_they_are():
    assert list(track(iter("abc"), total=3, what="letters")) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "either model or predictions"),
        (("--model", "nano", "--predictions", "x.csv"), "either model or predictions"),
        (("--predictions", "x.csv", "--detect"), "predictions are answers already"),
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

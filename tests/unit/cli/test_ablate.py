"""`motivnet ablate`: mistakes are told before anything is read, run or written."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from motivnet.cli.main import app
from motivnet.errors import MotivNetError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("heads",), "unknown ablation 'heads'; did you mean 'head'"),
        (("head",), "needs a pre-trained encoder: --encoder BUNDLE"),
        (("head", "--encoder", "absent"), "lacks 1 encoder(s): frozen.ml-decoder-1-fixed: absent is neither a file"),
        (("backbone", "--size", "1b"), "lacks 5 encoder(s)"),
        (("backbone", "--weights", "pose"), "--weights 'pose'. Allowed: VARIANT=FILE"),
        (("sampling", "--set", "run.epoch=1"), "did you mean 'epochs'"),
        (("sampling", "--labels", "2"), "share of the labels"),
        (("sampling",), "--data is missing"),
        (("sampling", "--data", "fer2013:absent.parquet"), "absent.parquet"),
        (("sampling", "--report-only"), "holds no ablation"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["ablate", *arguments, "--out", str(out)])
    assert isinstance(result.exception, MotivNetError)
    assert re.search(re.escape(message), " ".join(str(result.exception).split()))
    assert not out.exists()

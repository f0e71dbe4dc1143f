"""`motivnet ablate`, killed in its second run and given again."""

import io
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from motivnet.cli.main import app
from motivnet.data.manifest import make_manifest, write_manifest
from motivnet.errors import OutputError
from motivnet.labels import EMOTIONS
from motivnet.report.ablation_report import FILES
from motivnet.training.callbacks.csv_logger import METRICS_NAME, CsvFile

TINY = (
    "model.image_size=[16,16]",
    "preprocessing.size=[16,16]",
    "model.vit.embed_dim=16",
    "model.vit.depth=1",
    "model.vit.num_heads=2",
    "model.head.dim=16",
    "model.head.num_heads=2",
    "model.head.ff_dim=16",
    "run.batch_size=14",
    "run.epochs=2",
    "run.checkpoint_minutes=1e-9",
)
COUNTS = {"Training": 56, "PublicTest": 14, "PrivateTest": 14}
DYING = str(Path(__file__).parent / "dying.py")
PATIENCE_SECONDS = 600


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    images = []
    for _ in range(sum(COUNTS.values())):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(buffer, "PNG")
        images.append(buffer.getvalue())
    labels = [EMOTIONS.names[row % 7] for count in COUNTS.values() for row in range(count)]
    splits = [name for name, count in COUNTS.items() for _ in range(count)]
    data = tmp_path / "drawn.parquet"
    write_manifest(make_manifest({"image": images, "label": labels, "split": splits}), data)
    settings = [part for setting in TINY for part in ("--set", setting)]
    return ["ablate", "sampling", "--data", f"manifest:{data}", "--seeds", "2", *settings, "--out"]


def times(out: Path) -> dict[str, int]:
    return {file.parent.name: file.stat().st_mtime_ns for file in out.glob("runs/*/result.json")}


@pytest.mark.slow
def test_it_goes_on_in_the_middle_of_the_first_unfinished_run(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    # Each run writes 8 steps and 2 validations; this is the sixth step of the second run.
    moment = ("motivnet.training.callbacks.csv_logger:CsvFile.write", "17")
    died = subprocess.run(
        [sys.executable, DYING, *moment, *arguments, str(out)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    before = times(out)
    assert before.keys() == {"natural-0"}
    curve = out / "runs/uniform-0" / METRICS_NAME
    written = curve.read_bytes()
    again = CliRunner().invoke(app, [*arguments, str(out)])
    assert isinstance(again.exception, OutputError)
    begun: dict[str, int] = {}
    own = CsvFile.__init__

    def note(file: CsvFile, path: Path, columns: list[str], *, until: int) -> None:
        if path.name == METRICS_NAME:
            begun[path.parent.name] = until
        own(file, path, columns, until=until)

    monkeypatch.setattr(CsvFile, "__init__", note)
    done = CliRunner().invoke(app, [*arguments, str(out), "--resume"])
    assert done.exit_code == 0, done.output
    assert begun == dict.fromkeys(times(out).keys() - {"natural-0"}, 0) | {"uniform-0": 5}
    assert curve.read_bytes().startswith(written)
    assert [line.partition(",")[0] for line in curve.read_text().splitlines()] == ["step", *"12345678"]
    after = times(out)
    assert len(after) == 8
    assert {name: after[name] for name in before} == before
    assert {file.name for file in (out / "report").iterdir()} == set(FILES)
    assert "| natural |" in done.stdout
    kept = (out / "report" / "report.json").read_bytes()
    anew = CliRunner().invoke(app, ["ablate", "sampling", "--out", str(out), "--report-only"])
    assert anew.exit_code == 0, anew.output
    assert (out / "report" / "report.json").read_bytes() == kept
    other = CliRunner().invoke(app, ["ablate", "head", "--out", str(out), "--report-only"])
    assert "holds the ablation 'sampling', not 'head'" in str(other.exception)

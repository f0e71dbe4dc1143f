"""`motivnet ablate`, killed at its first result and given again."""

import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from motivnet.cli.main import app
from motivnet.data.manifest import make_manifest, write_manifest
from motivnet.errors import OutputError
from motivnet.labels import EMOTIONS
from motivnet.training.ablation.report import FILES

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
    "run.epochs=1",
)
COUNTS = {"Training": 56, "PublicTest": 14, "PrivateTest": 14}


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


def test_it_goes_on_with_the_first_unfinished_run(arguments: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "motivnet", *arguments, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 240
    while not times(out) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    before = times(out)
    assert before, said.decode()
    assert len(before) < 8
    again = CliRunner().invoke(app, [*arguments, str(out)])
    assert isinstance(again.exception, OutputError)
    done = CliRunner().invoke(app, [*arguments, str(out), "--resume"])
    assert done.exit_code == 0, done.output
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

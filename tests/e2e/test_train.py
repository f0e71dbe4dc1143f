"""Training in miniature: it learns, it resumes exactly after kill -9, and its bundle predicts."""

import csv
import io
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from motivnet.cli.main import main
from motivnet.labels import EMOTIONS

MINIATURE = [
    "model.backbone=timm:mobilenetv2_035",
    "model.image_size=[32,32]",
    "preprocessing.size=[32,32]",
    "model.head.dim=32",
    "model.head.ff_dim=32",
    "run.batch_size=14",
    "run.epochs=3",
    "run.ema_decay=0.9",
]


def draw(label: int, rng: np.random.Generator) -> bytes:
    """Draw a picture whose stripes tell its label, under noise."""
    y, x = np.mgrid[:48, :48]
    stripes = np.sin((x * np.cos(label * np.pi / 7) + y * np.sin(label * np.pi / 7)) / 2)
    pixels = np.clip(128 + 80 * stripes + rng.normal(0, 20, (48, 48)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    labels = np.arange(196) % 7
    columns = {
        "usage": ["Training"] * 140 + ["PublicTest"] * 28 + ["PrivateTest"] * 28,
        "label": [EMOTIONS.names[label] for label in labels],
        "png": [draw(int(label), rng) for label in labels],
    } | {f"votes_{name}": (labels == i).astype(int) * 10 for i, name in enumerate(EMOTIONS)}
    path = tmp_path_factory.mktemp("fer") / "fer.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def command(data: Path, out: Path, *extra: str) -> list[str]:
    settings = [part for setting in MINIATURE for part in ("--set", setting)]
    train = [sys.executable, "-m", "motivnet", "train", "nano-fer2013"]
    return [*train, "--data", str(data), "--out", str(out), *settings, *extra]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=280, check=False)


def curve(out: Path) -> dict[int, tuple[str, str]]:
    """Read epoch -> (training loss, selection score), to the last digit, of every epoch that the logs have whole."""
    values: dict[int, dict[str, str]] = {}
    for file in sorted(out.glob("logs/version_*/metrics.csv")):
        with file.open() as opened:
            for row in csv.DictReader(opened):
                for name in ("train/loss_epoch", "val/score"):
                    if row.get(name):
                        values.setdefault(int(row["epoch"]), {})[name] = row[name]
    # The score is written before the epoch's loss is: a kill between the two leaves an epoch without.
    return {
        epoch: (found["train/loss_epoch"], found["val/score"]) for epoch, found in values.items() if len(found) == 2
    }


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = run(*command(data, out))
    assert done.returncode == 0, done.stderr
    return out


def test_it_learns_and_leaves_a_bundle(whole: Path) -> None:
    losses = [float(loss) for loss, _ in curve(whole).values()]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert {path.name for path in (whole / "bundle").iterdir()} == {"config.json", "model.safetensors", "model.onnx"}


def test_its_bundle_predicts(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "face.png").write_bytes(draw(1, np.random.default_rng(5)))
    arguments = ["--model", str(whole / "bundle"), "--detector", "whole", "--json"]
    done = run(sys.executable, "-m", "motivnet", "predict", str(tmp_path / "face.png"), *arguments)
    assert done.returncode == 0, done.stderr
    assert '"status": "ok"' in done.stdout


def test_resume_after_kill_equals_the_uninterrupted_run(data: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    process = subprocess.Popen(command(data, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not (out / "checkpoints/last.ckpt").exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint within 200 s"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (out / "bundle").exists()
    resumed = run(*command(data, out, "--resume"))
    assert resumed.returncode == 0, resumed.stderr
    # Epochs before the kill may be missing from the log, which is flushed at intervals; what came after must be equal.
    found, expected = curve(out), curve(whole)
    assert 2 in found
    assert found == {epoch: expected[epoch] for epoch in found}
    weights = "bundle/model.safetensors"
    assert (out / weights).read_bytes() == (whole / weights).read_bytes()


@pytest.fixture
def complaint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the program in this process, where torch is loaded already, and give the line that it ends in."""

    def end(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["motivnet", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        return capsys.readouterr().err

    return end


def test_a_run_is_neither_overwritten_nor_resumed_by_another_recipe(
    data: Path, whole: Path, complaint: Callable[..., str]
) -> None:
    arguments = command(data, whole)[3:]
    assert "holds a run already" in complaint(*arguments)
    other = complaint(*arguments, "--resume", "--set", "optimizer.head_lr=0.01")
    assert "optimizer.head_lr was 0.001, is 0.01" in other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nano-fer2031", "--data", "x"], "did you mean 'nano-fer2013'"),
        (["train", "nano-fer2013", "--data", "absent.csv"], "no such file"),
        (["train", "nano-fer2013", "--data", "x", "--set", "optimizer.hed_lr=1"], "did you mean 'head_lr'"),
        (["train", "nano-fer2013", "--data", "x", "--set", "optimizer.head_lr=0"], "head_lr must be positive"),
        (["train", "nano-fer2013"], "--data is missing"),
        (["export", "absent"], "unknown model 'absent'"),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    complaint: Callable[..., str],
) -> None:
    monkeypatch.chdir(tmp_path)
    line = complaint(*arguments)
    assert message in line
    assert line.count("\n") == 1
    assert list(tmp_path.iterdir()) == []

"""Training in miniature: it learns, resumes exactly after kill -9, is the same on two devices, and predicts."""

import csv
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from motivnet import config
from motivnet.cli.main import main
from motivnet.data.sources.fer2013 import read_fer2013
from motivnet.labels import EMOTIONS
from motivnet.training.fit import fit
from motivnet.training.recipes import nano_fer2013

MINIATURE = [
    "model.backbone=timm:test_vit",
    "model.image_size=[32,32]",
    "preprocessing.size=[32,32]",
    "model.head.dim=32",
    "model.head.ff_dim=32",
    "model.head.dropout=0",
    "run.batch_size=14",
    "run.epochs=3",
    "run.ema_decay=0.9",
    "run.mixup=0",
    "run.precision=32-true",
    "run.checkpoint_minutes=1e-9",
]
PRETRAINING = [
    "model.image_size=[32,32]",
    "preprocessing.size=[32,32]",
    "model.vit.embed_dim=32",
    "model.vit.depth=1",
    "model.vit.num_heads=2",
    "mae.decoder_dim=16",
    "mae.decoder_depth=1",
    "optimizer.lr=0.08",
    "run.batch_size=14",
    "run.epochs=6",
    "run.precision=32-true",
]
DYING = str(Path(__file__).parent / "dying.py")
PATIENCE_SECONDS = 600
TWO = ("--devices", "2", "--accelerator", "cpu")
needs_two_cores = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two processes on a CPU need two cores")


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


def arguments(data: Path, out: Path, *extra: str) -> list[str]:
    settings = [part for setting in MINIATURE for part in ("--set", setting)]
    return ["train", "nano-fer2013", "--data", f"fer2013:{data}", "--out", str(out), *settings, *extra]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        # Where another process dies natively, the one that tells of it only knows that the connection is gone.
        env=os.environ | {"PYTHONFAULTHANDLER": "1"},
    )


def train(data: Path, out: Path, *extra: str) -> None:
    done = run("-m", "motivnet", *arguments(data, out, *extra))
    assert done.returncode == 0, done.stderr


def curve(out: Path, name: str = "metrics.csv") -> list[dict[str, str]]:
    with (out / name).open() as file:
        return list(csv.DictReader(file))


def losses(out: Path) -> list[float]:
    return [float(row["loss"]) for row in curve(out)]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(data, out)
    return out


def test_it_learns_and_leaves_a_bundle(whole: Path) -> None:
    assert [int(row["step"]) for row in curve(whole)] == list(range(1, 31))
    assert sum(losses(whole)[-10:]) < sum(losses(whole)[:10])
    assert {path.name for path in (whole / "bundle").iterdir()} == {"config.json", "model.safetensors", "model.onnx"}


def test_its_bundle_predicts(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "face.png").write_bytes(draw(1, np.random.default_rng(5)))
    options = ["--model", str(whole / "bundle"), "--detector", "whole", "--json"]
    done = run("-m", "motivnet", "predict", str(tmp_path / "face.png"), *options)
    assert done.returncode == 0, done.stderr
    assert '"status": "ok"' in done.stdout


# Between an optimizer step and its row; while a checkpoint is written.
BETWEEN, SAVING = "motivnet.training.callbacks.csv_logger:CsvFile.write", "motivnet.training.trainer:_save"


@pytest.mark.parametrize(
    "moments",
    [
        ((SAVING, "15"),),  # within the second epoch
        pytest.param(((BETWEEN, "6"), (SAVING, "11")), marks=pytest.mark.slow),  # the first, then the second
    ],
    ids=len,
)
def test_a_run_that_is_killed_again_and_again_equals_the_uninterrupted_one(
    moments: tuple[tuple[str, str], ...], data: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    workers = ("--set", "run.num_workers=1")
    for number, moment in enumerate(moments):
        extra = ("--resume",) if number else ()
        died = run(DYING, *moment, *arguments(data, out, *workers, *extra))
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert not (out / "bundle").exists()
    (unfinished,) = (out / "checkpoints").glob(".last.ckpt.*.tmp.ckpt")
    assert unfinished.read_bytes() == b"PK\3\4 half a checkpoint"
    assert 10 < len(losses(out)) < 20
    train(data, out, *workers, "--resume")
    for name in ("metrics.csv", "validation.csv", "bundle/model.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


@needs_two_cores
def test_two_processes_give_the_curve_of_one(data: Path, tmp_path: Path) -> None:
    balanced = ("--set", "sampling.kind=balanced")
    recipe = config.override(nano_fer2013(), [*MINIATURE, balanced[1]])
    fit(recipe, read_fer2013(data), tmp_path / "one", progress=False)
    train(data, tmp_path / "two", *TWO, "--set", "run.batch_size=7", *balanced)
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=0, atol=1e-4)
    for one, other in zip(*(curve(tmp_path / name, "validation.csv") for name in ("one", "two")), strict=True):
        assert {name: one[name] for name in ("step", "epoch", "war", "uar", "score")}.items() <= other.items()
    assert (tmp_path / "two/bundle/model.onnx").is_file()


@pytest.mark.slow
@needs_two_cores
def test_so_do_two_that_torchrun_started(data: Path, whole: Path, tmp_path: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "motivnet")
    done = run(*torchrun, *arguments(data, tmp_path, *TWO, "--set", "run.batch_size=7"))
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(tmp_path), losses(whole), rtol=0, atol=1e-4)
    assert (tmp_path / "bundle/model.onnx").is_file()


SHARDED = (*TWO, "--strategy", "fsdp", "--set", "run.batch_size=7", "--set", "run.ema_decay=0")


# Slow, because it was unsteady once: gathering the optimizer's state for a checkpoint, a process lost the other one, in
# one run of `make test`; in 18 runs like it, and 10 that were five times as long, it did not.
@pytest.mark.slow
@needs_two_cores
def test_a_model_that_is_shared_out_gives_the_same_curve(data: Path, whole: Path, tmp_path: Path) -> None:
    train(data, tmp_path, *SHARDED)
    np.testing.assert_allclose(losses(tmp_path), losses(whole), rtol=0, atol=1e-4)
    assert (tmp_path / "bundle/model.onnx").is_file()


@pytest.mark.slow
@needs_two_cores
def test_a_model_that_is_shared_out_goes_on_where_it_was_killed(data: Path, whole: Path, tmp_path: Path) -> None:
    died = run(DYING, "motivnet.training.module:Classifier.training_step", "14", *arguments(data, tmp_path, *SHARDED))
    assert died.returncode == -signal.SIGKILL, died.stderr
    train(data, tmp_path, *SHARDED, "--resume")
    np.testing.assert_allclose(losses(tmp_path), losses(whole), rtol=0, atol=1e-4)


def pretraining(data: Path, out: Path, *extra: str) -> list[str]:
    settings = [part for setting in PRETRAINING for part in ("--set", setting)]
    return ["pretrain", "mae", "--data", f"fer2013:{data}", "--out", str(out), *settings, *extra]


@pytest.fixture(scope="module")
def pretrained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "pretrained"
    done = run("-m", "motivnet", *pretraining(data, out))
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
@needs_two_cores
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_pretrain_as_one(strategy: str, data: Path, pretrained: Path, tmp_path: Path) -> None:
    two = (*TWO, "--strategy", strategy, "--set", "run.batch_size=7")
    done = run("-m", "motivnet", *pretraining(data, tmp_path, *two))
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(tmp_path), losses(pretrained), rtol=0, atol=1e-4)
    # The masks of validation are drawn in each process.
    first, *_, last = (float(row["loss"]) for row in curve(tmp_path, "validation.csv"))
    assert last < 0.97 * first
    assert {path.name for path in (tmp_path / "bundle").iterdir()} == {"config.json", "model.safetensors"}


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
    assert "holds a run already" in complaint(*arguments(data, whole))
    other = complaint(*arguments(data, whole, "--resume", "--set", "optimizer.head_lr=0.01"))
    assert "optimizer.head_lr was 0.001, is 0.01" in other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nano-fer2031", "--data", "x"], "did you mean 'nano-fer2013'"),
        (["train", "nano-fer2013", "--data", "fer2013:absent.csv"], "no such file"),
        (["train", "nano-fer2013", "--data", "x", "--devices", "9999"], "--devices 9999: there are"),
        (["train", "nano-fer2013", "--data", "x", "--set", "optimizer.hed_lr=1"], "did you mean 'head_lr'"),
        (["train", "nano-fer2013", "--data", "x", "--set", "optimizer.head_lr=0"], "head_lr 0.0: must be above 0"),
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

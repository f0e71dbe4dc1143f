"""`motivnet train`: what is shown, what is refused before anything is written, and what reaches the run."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from motivnet import config
from motivnet.cli import train as train_module
from motivnet.cli.main import app
from motivnet.errors import ConfigError, DataError, MotivNetError
from motivnet.labels import EMOTIONS
from motivnet.training import estimate, trainer
from motivnet.training import fit as fit_module
from motivnet.training.recipes import RECIPES, recipe
from motivnet.training.settings import Place, Recipe


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run the verb in an empty folder; what it raises comes out."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["train", *arguments], catch_exceptions=False)

    return invoke


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a run is asked to do, in place of doing it."""
    calls: list[dict[str, Any]] = []

    def note(recipe: Recipe, data: str, out: Path, **rest: Any) -> Any:
        calls.append({"recipe": recipe, "data": data, "out": out} | rest)
        return SimpleNamespace(path=out / "bundle")

    monkeypatch.setattr(fit_module, "fit", note)
    monkeypatch.setattr(train_module, "_export", lambda bundle: calls[-1].update(finished=bundle.path))
    return calls


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    images = []
    for _ in range(28):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (48, 48), dtype=np.uint8)).save(buffer, "PNG")
        images.append(buffer.getvalue())
    labels = [*EMOTIONS] * 4
    columns = {"usage": ["Training"] * 14 + ["PublicTest"] * 14, "label": labels, "png": images} | {
        f"votes_{name}": [10 * (name == label) for label in labels] for name in EMOTIONS
    }
    path = tmp_path_factory.mktemp("somebody") / "fer.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_without_a_recipe_all_are_listed(run: Callable[..., Any]) -> None:
    lines = run().stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(RECIPES)
    assert all(len(line.split()) > 5 for line in lines)


def test_show_prints_settings_to_stdout_and_says_what_it_is(run: Callable[..., Any]) -> None:
    result = run("motivnet-1b", "--show", "--set", "backbone.train=lora", "--set", "split.hold_out=0.2")
    shown = config.from_plain(Recipe, json.loads(result.stdout))
    assert shown == config.override(recipe("motivnet-1b"), ["backbone.train=lora", "split.hold_out=0.2"])
    assert "arXiv 2512.24231" in result.stderr


def test_what_is_asked_reaches_the_run(run: Callable[..., Any], fitted: list[dict[str, Any]], data: Path) -> None:
    source = f"fer2013:{data}"
    arguments = ["--set", "run.epochs=2", "--init", "first", "--resume", "--devices", "2", "--accelerator", "cpu"]
    run("mini-fer2013", "--data", source, "--out", "here", *arguments)
    (call,) = fitted
    assert call["recipe"] == config.override(recipe("mini-fer2013"), ["run.epochs=2"])
    assert call["data"] == source
    assert (call["out"], call["init"], call["resume"]) == (Path("here"), Path("first"), True)
    assert call["place"] == Place(devices=2, accelerator="cpu")
    assert call["finished"] == Path("here/bundle")


def test_without_a_folder_it_is_named_for_the_recipe(
    run: Callable[..., Any], fitted: list[dict[str, Any]], data: Path
) -> None:
    run("mini-fer2013", "--data", f"fer2013:{data}")
    assert fitted[0]["out"] == Path("runs/mini-fer2013")
    assert fitted[0]["place"] == Place()
    assert (fitted[0]["init"], fitted[0]["resume"]) == (None, False)


def test_only_the_first_process_exports(
    run: Callable[..., Any], fitted: list[dict[str, Any]], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "is_first", lambda: False)
    result = run("mini-fer2013", "--data", f"fer2013:{data}")
    assert "finished" not in fitted[0]
    assert result.stdout == ""


def test_a_dry_run_needs_no_data_and_trains_nothing(
    run: Callable[..., Any], fitted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(estimate, "dry_run", lambda *args, **rest: calls.append((args, rest)) or {"fits": True})
    arguments = ["--devices", "3", "--strategy", "fsdp", "--device-gb", "48", "--json"]
    result = run("motivnet-1b", "--dry-run", *arguments, "--set", "run.batch_size=1")
    expected = config.override(recipe("motivnet-1b"), ["run.batch_size=1"])
    assert calls == [((expected, Place(devices=3, strategy="fsdp")), {"device_gb": 48.0})]
    assert json.loads(result.stdout) == {"fits": True}
    assert fitted == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["nano-fer2031"], ConfigError, "did you mean 'nano-fer2013'"),
        (["mini-fer2013"], ConfigError, r"--data is missing. Allowed: KIND:PATH, such as fer2013:"),
        (["mini-fer2013", "--data", "fer.parquet"], DataError, "names no data set. Allowed: KIND:PATH"),
        (["mini-fer2013", "--data", "fer2031:x"], DataError, "did you mean 'fer2013'"),
        (["mini-fer2013", "--data", "fer2013:absent"], DataError, "absent"),
        (["mini-fer2013", "--set", "optimizer.hed_lr=1"], ConfigError, "did you mean 'head_lr'"),
        (["mini-fer2013", "--set", "optimizer.backbone_lr=0"], ConfigError, "backbone_lr 0.0: must be above 0"),
        (["mini-fer2013", "--set", "optimizer.head_lr=-1"], ConfigError, "head_lr -1.0: must be above 0"),
        (["mini-fer2013", "--strategy", "dpp"], ConfigError, "strategy: 'dpp' is not allowed. Allowed: 'ddp', 'fsdp'"),
        (["mini-fer2013", "--devices", "0"], ConfigError, "at least 1"),
        (["mini-fer2013", "--data", "x", "--devices", "999", "--accelerator", "cpu"], ConfigError, "--devices 999"),
        (["mini-fer2013", "--data", "x", "--json"], ConfigError, "belong to --dry-run"),
        (["mini-fer2013", "--data", "x", "--device-gb", "48"], ConfigError, "belong to --dry-run"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(
    run: Callable[..., Any], tmp_path: Path, arguments: list[str], error: type[MotivNetError], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(*arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (["split.select=PrivateTest"], DataError, "no rows in split 'PrivateTest'. Allowed: PublicTest, Training"),
        (["backbone.weights=absent.pth"], MotivNetError, "unknown model 'absent.pth'"),
        (["backbone.train=last", "backbone.last_blocks=9"], ConfigError, "last_blocks 9: the backbone has 4"),
        (["model.head.num_heads=5"], ConfigError, "num_heads=5"),
    ],
)
def test_a_run_refuses_before_anything_is_written(
    run: Callable[..., Any],
    data: Path,
    tmp_path: Path,
    settings: list[str],
    error: type[MotivNetError],
    message: str,
) -> None:
    settings = [*settings, "run.batch_size=7"]  # there are few rows
    changes = [part for setting in settings for part in ("--set", setting)]
    with pytest.raises(error, match=message):
        run("mini-fer2013", "--data", f"fer2013:{data}", *changes)
    assert list(tmp_path.iterdir()) == []

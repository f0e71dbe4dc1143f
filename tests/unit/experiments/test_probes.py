"""Probes: tokens once, every setting tried on the selection split alone, and a report like that of any ablation."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from motivnet.cli.main import app
from motivnet.data.loader import FaceDataset
from motivnet.data.manifest import Manifest, make_manifest, set_columns, write_manifest
from motivnet.errors import ConfigError, MotivNetError
from motivnet.experiments.ablation import split_rows
from motivnet.experiments.grids import Grid
from motivnet.experiments.probes import PROBES, probe, probe_grid
from motivnet.labels import EMOTIONS
from motivnet.training.fit import prepare_model

RATES, DECAYS = (1e-4, 1e-2), (0.0, 0.1)
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
)
SPLITS = {"Training": 56, "PublicTest": 14, "PrivateTest": 28}


def draw(label: int, rng: np.random.Generator) -> bytes:
    """Draw a bright column whose place tells the label, under noise."""
    pixels = rng.normal(100, 20, (16, 16))
    pixels[:, 2 * label : 2 * label + 2] += 100
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def quiet(_: str) -> None:
    """Say nothing."""


def grid(*settings: str) -> Grid:
    return probe_grid("mini-fer2013", (*TINY, "run.epochs=3", *settings), rates=RATES, decays=DECAYS)


def linear(*settings: str) -> Grid:
    """The same with one probe."""
    return dataclasses.replace(grid(*settings), cells={"linear": grid().cells["linear"]}, comparisons=())


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    rng, names = np.random.default_rng(0), EMOTIONS.names
    splits = [name for name, count in SPLITS.items() for _ in range(count)]
    labels = [row % 7 for count in SPLITS.values() for row in range(count)]
    images = [draw(label, rng) for label in labels]
    return make_manifest({"image": images, "label": [names[label] for label in labels], "split": splits})


@pytest.fixture(scope="module")
def done(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("probes") / "probes"
    assert probe(grid(), manifest, out, data="drawn", seeds=2, say=quiet)
    return out


def results(out: Path) -> dict[str, dict]:
    return {file.parent.name: json.loads(file.read_text()) for file in sorted(out.glob("runs/*/result.json"))}


def test_tokens_are_those_of_the_encoder_and_computed_once(manifest: Manifest, done: Path) -> None:
    files = sorted((done / "tokens").iterdir())
    train, others = split_rows(grid(), manifest, "PrivateTest")
    parts = [train, *(others.split(name) for name in ("PublicTest", "PrivateTest"))]
    assert len(files) == len(parts)
    torch.manual_seed(0)
    encoder = prepare_model(grid().recipe, None, start=True).backbone.eval()
    for part in parts:
        (file,) = (file for file in files if file.name.startswith(part.fingerprint()))
        pixels = FaceDataset(part, grid().recipe.preprocessing).__getitems__(list(range(len(part)))).pixels
        with torch.no_grad():
            expected = encoder(pixels).numpy()
        np.testing.assert_allclose(np.load(file), expected, atol=4e-3)


def test_each_run_takes_what_is_best_on_the_selection_split(done: Path) -> None:
    found = results(done)
    assert set(found) == {f"{name}-{seed}" for name in PROBES for seed in (0, 1)}
    for each in found.values():
        tried = each["selected"]["tried"]
        assert {(one["optimizer.head_lr"], one["optimizer.weight_decay"]) for one in tried} == {
            (rate, decay) for rate in RATES for decay in DECAYS
        }
        assert each["selected"]["score"] == max(one["score"] for one in tried)
        assert each["selected"]["split"] == "PublicTest"
    # The probe that sees where a column is bright tells them apart, whatever the random encoder.
    assert max(found[f"bn-linear-{seed}"]["scores"]["war"] for seed in (0, 1)) > 0.5


def test_labels_of_the_reported_split_choose_nothing(manifest: Manifest, done: Path, tmp_path: Path) -> None:
    labels = np.array(manifest.table["label"].to_pylist(), dtype=object)
    reported = np.array(manifest.table["split"].to_pylist()) == "PrivateTest"
    labels[reported] = np.roll(labels[reported], 1)
    other = dataclasses.replace(manifest, table=set_columns(manifest.table, label=labels.tolist()))
    assert probe(linear(), other, tmp_path / "other", data="drawn", seeds=2, say=quiet)
    for name, here in results(tmp_path / "other").items():
        there = results(done)[name]
        assert here["selected"] == there["selected"]
        assert here["scores"] != there["scores"]


def test_the_report_compares_with_ml_decoder_and_names_the_settings(done: Path) -> None:
    report = json.loads((done / "report" / "report.json").read_text())
    assert {(each["cell"], each["reference"]) for each in report["comparisons"]} == {
        (name, "ml-decoder") for name in ("linear", "bn-linear", "attentive")
    }
    text = (done / "report" / "report.md").read_text()
    assert "| optimizer.head\\_lr | optimizer.weight\\_decay |" in text
    chosen = [results(done)[f"linear-{seed}"]["selected"]["optimizer.head_lr"] for seed in (0, 1)]
    assert f"| {', '.join(f'{rate:g}' for rate in chosen)} |" in text


def test_finished_runs_and_tokens_are_kept(manifest: Manifest, done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "runs" / "linear-1")
    kept = {
        path: path.stat().st_mtime_ns for path in (*tmp_path.glob("tokens/*"), *tmp_path.glob("runs/*/result.json"))
    }
    assert probe(grid(), manifest, tmp_path, data="drawn", seeds=2, resume=True, say=quiet)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    again, before = results(tmp_path), results(done)
    assert again["linear-1"]["scores"] == before["linear-1"]["scores"]
    other = dataclasses.replace(grid(), sweep={"optimizer.head_lr": (1.0,), "optimizer.weight_decay": DECAYS})
    with pytest.raises(ConfigError, match=r"grid\.sweep\.optimizer\.head_lr"):
        probe(other, manifest, tmp_path, data="drawn", seeds=2, resume=True, say=quiet)


def test_settings_of_the_recipe_count(manifest: Manifest, done: Path, tmp_path: Path) -> None:
    other = linear("sampling.kind=balanced", "run.precision=bf16-mixed")
    assert probe(other, manifest, tmp_path / "out", data="drawn", seeds=2, say=quiet)
    before = results(done)["linear-0"]["selected"]["tried"]
    assert results(tmp_path / "out")["linear-0"]["selected"]["tried"] != before


def test_the_verb(manifest: Manifest, tmp_path: Path) -> None:
    write_manifest(manifest, tmp_path / "drawn.parquet")
    settings = [part for setting in (*TINY, "run.epochs=1") for part in ("--set", setting)]
    call = ["probe", "--data", f"manifest:{tmp_path / 'drawn.parquet'}", "--out", str(tmp_path / "out"), *settings]
    run = CliRunner().invoke(app, [*call, "--rate", "0.01", "--decay", "0", "--seeds", "2"])
    assert run.exit_code == 0, run.exception
    assert all(f"| {name} | {56:,} | 2 |" in run.stdout for name in PROBES)
    shown = CliRunner().invoke(app, [*call, "--show", "--rate", "0.5"])
    assert json.loads(shown.stdout)["sweep"]["optimizer.head_lr"] == [0.5]
    wrong = CliRunner().invoke(app, [*call, "--report", "PublicTest"])
    assert isinstance(wrong.exception, MotivNetError)
    assert "must not be trained or selected on" in str(wrong.exception)

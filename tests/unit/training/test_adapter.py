"""Every method in a run of seconds: what it writes, that the target's labels only score, and that it resumes."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("lightning", reason="the extra `train` is not installed")

import torch
from torch import nn
from typer.testing import CliRunner

from motivnet.checkpoints.bundle import open_bundle
from motivnet.cli.main import app
from motivnet.data.manifest import Manifest, write_manifest
from motivnet.errors import ConfigError
from motivnet.evaluation.metrics import uar, war
from motivnet.experiments.adaptation import adapt, probs_of, read_target
from motivnet.labels import EMOTIONS
from motivnet.models.config import HeadConfig, preset
from motivnet.training.adapter import PairSampler, batch_statistics
from motivnet.training.recipes import RECIPES
from motivnet.training.settings import Recipe

METHODS = ("source-only", "batchnorm", "mmd", "dann", "cdan", "ecan", "agra", "csrl")


@pytest.fixture
def sources(
    faces: Manifest, tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, str]:
    """Source and target as they are named, and recipes of seconds: `tiny-vit`, and `tiny-cnn` with batch norms."""
    vit = tiny(batch_size=7, epochs=2, ema_decay=0.9, precision="bf16-mixed")
    net = dataclasses.replace(
        preset("nano"), backbone="timm:mobilenetv3_small_050", image_size=(32, 32), head=HeadConfig(kind="linear")
    )
    for name, each in {"tiny-vit": vit, "tiny-cnn": dataclasses.replace(vit, model=net)}.items():
        monkeypatch.setitem(RECIPES, name, lambda each=each: each)
    write_manifest(faces, tmp_path / "faces.parquet")
    return f"manifest:{tmp_path / 'faces.parquet'}@Training", f"manifest:{tmp_path / 'faces.parquet'}@PublicTest"


@pytest.mark.parametrize("method", METHODS)
def test_every_method(method: Any, sources: tuple[str, str], faces: Manifest, tmp_path: Path) -> None:
    recipe = "tiny-cnn" if method == "batchnorm" else "tiny-vit"
    found = adapt(method, *sources, tmp_path / "run", recipe=recipe, progress=False)
    target, _ = read_target(sources[1])
    assert sorted(target.table["row"].to_pylist()) == faces.split("PublicTest").table["row"].to_pylist()
    assert [each["epoch"] for each in found["epochs"]] == [0, 1]
    for each in found["epochs"]:
        probs = probs_of(tmp_path / "run", each["epoch"])
        assert probs.shape == (14, 7)
        np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)
        assert each["war"] == pytest.approx(war(probs.argmax(1), target.targets, 7))
        assert each["uar"] == pytest.approx(uar(probs.argmax(1), target.targets, 7))
    for way in ("source", "information", "oracle"):
        assert found["chosen"][way][way] == max(each[way] for each in found["epochs"])
    assert json.loads((tmp_path / "run/result.json").read_text()) == found
    table = pq.read_table(tmp_path / "run/predictions.parquet")
    chosen = probs_of(tmp_path / "run", found["chosen"]["source"]["epoch"])
    assert table["label"].to_pylist() == target.table["label"].to_pylist()
    assert table["pred"].to_pylist() == [EMOTIONS.names[place] for place in chosen.argmax(1)]
    bundle = open_bundle(tmp_path / "run/bundle")
    assert bundle.config.provenance["recipe"]["adapt"]["method"] == method
    assert bundle.config.provenance["training_rows"]["target"] == 14


def test_labels_of_the_target_only_score(sources: tuple[str, str], faces: Manifest, tmp_path: Path) -> None:
    target = faces.split("PublicTest")
    folder = tmp_path / "unlabelled"
    folder.mkdir()
    for row in range(len(target)):
        (folder / f"{row:02}.png").write_bytes(target.table["image"][row].as_py())
    settings = ["run.epochs=1"]
    with_labels = adapt("ecan", *sources, tmp_path / "a", recipe="tiny-vit", settings=settings, progress=False)
    without = adapt(
        "ecan", sources[0], f"images:{folder}", tmp_path / "b", recipe="tiny-vit", settings=settings, progress=False
    )
    np.testing.assert_array_equal(probs_of(tmp_path / "a", 0), probs_of(tmp_path / "b", 0))
    assert without["chosen"].keys() == {"source", "information"}
    assert "war" not in without["epochs"][0]
    assert "war" in with_labels["epochs"][0]
    assert "label" not in pq.read_table(tmp_path / "b/predictions.parquet").column_names


def test_the_verb_and_a_run_that_goes_on(sources: tuple[str, str], tmp_path: Path) -> None:
    command = ["adapt", "mmd", "--source", sources[0], "--target", sources[1], "--recipe", "tiny-vit"]
    command += ["--out", str(tmp_path / "run"), "--set", "adapt.rows=14", "--set", "adapt.select=information"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert [line.partition(":")[0] for line in done.stdout.splitlines() if "chosen by" in line] == [
        "chosen by source",
        "chosen by information",
        "chosen by oracle",
    ]
    # Two steps of seven pairs an epoch.
    assert len((tmp_path / "run/metrics.csv").read_text().splitlines()) == 1 + 2 * 2
    before = (tmp_path / "run/result.json").read_bytes()
    (tmp_path / "run/result.json").unlink()
    assert CliRunner().invoke(app, [*command, "--resume"]).exit_code == 0
    assert (tmp_path / "run/result.json").read_bytes() == before
    shown = CliRunner().invoke(app, [*command, "--show"])
    assert json.loads(shown.stdout)["adapt"] == {"method": "mmd", "weight": 1.0, "rows": 14, "select": "information"}


@pytest.mark.parametrize(
    ("method", "source", "settings", "message"),
    [
        ("mmd", "manifest:faces.parquet", (), "names no split. Allowed: KIND:PATH@SPLIT"),
        ("mmd", None, ("run.mixup=0.2",), "run.mixup=0"),
        ("mmd", None, ("run.batch_size=7",), "Allowed: even"),
        ("batchnorm", None, (), "no batch norms"),
        ("adda", None, (), "Allowed: "),
    ],
)
def test_what_is_refused(
    method: Any, source: str | None, settings: tuple[str, ...], message: str, sources: tuple[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        adapt(method, source or sources[0], sources[1], tmp_path / "run", recipe="tiny-vit", settings=settings)


def test_pairs_of_an_epoch() -> None:
    sampler = PairSampler(num_source=10, num_target=4, pairs=None, seed=3)
    rows = [*sampler]
    assert len(sampler) == len(rows) == 20
    assert sorted(rows[::2]) == [*range(10)]
    # Each target row has its turn before one has its second.
    assert sorted(rows[1:9:2]) == sorted(rows[9:17:2]) == [10, 11, 12, 13]
    sampler.set_epoch(1)
    assert [*sampler] != rows
    sampler.set_epoch(0)
    assert [*sampler] == rows
    assert len(PairSampler(10, 4, pairs=3, seed=3)) == 6


def test_batch_statistics_are_those_of_the_batch_and_are_forgotten() -> None:
    norm = nn.BatchNorm2d(2).eval()
    pixels = 3 + 2 * torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    state = {name: each.clone() for name, each in norm.state_dict().items() if name != "num_batches_tracked"}
    with batch_statistics(norm):
        found = norm(pixels)
    mean, var = pixels.mean((0, 2, 3), keepdim=True), pixels.var((0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(found, (pixels - mean) / (var + norm.eps).sqrt())
    assert not norm.training
    assert norm.momentum == 0.1
    for name, each in state.items():
        torch.testing.assert_close(norm.state_dict()[name], each)

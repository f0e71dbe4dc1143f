"""Runs that are killed and resumed, whenever it was, and what they leave."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from motivnet import config
from motivnet.checkpoints.files import open_weights
from motivnet.data import augment
from motivnet.data.manifest import Manifest, write_manifest
from motivnet.errors import CheckpointError, ConfigError, DataError, OutputError
from motivnet.training import fit as fit_module
from motivnet.training import run_dir
from motivnet.training import trainer as trainer_module
from motivnet.training.callbacks.csv_logger import CsvFile
from motivnet.training.fit import fit, said
from motivnet.training.module import Classifier
from motivnet.training.recipes import nano_fer2013
from motivnet.training.run_dir import BEST, LAST
from motivnet.training.settings import BackboneConfig, Place, Recipe

EVERY_STEP = 1e-9  # minutes
FILES = ("metrics.csv", "validation.csv", "bundle/model.safetensors")


class Killed(BaseException):
    """Nothing in the program knows of this one."""


def die_at(patch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """Have a function die when it was called so often, its work half done where it writes."""
    own, calls = getattr(owner, name), []

    def dying(*arguments: Any, **settings: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            if name == "_save":
                arguments[1].write(b"PK\3\4 half a checkpoint")
            raise Killed
        return own(*arguments, **settings)

    patch.setattr(owner, name, dying)


def test_a_report_is_said_in_words() -> None:
    report = {"rows": 28709, "in_test": 692, "left_out": {"contempt": 2}, "pictures": ["000383ef660d"]}
    assert said(report) == "28,709 rows, 692 in test, 2 contempt"


@pytest.fixture(scope="module")
def uninterrupted(faces: Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return {}


# What dies, and at which call; an epoch has 4 steps of 2 batches, a checkpoint after each of the first 3, one for the
# best epoch, one for the last. Checkpoints 4 and 5 are those of the end of the first epoch.
MOMENTS = {
    "in the first batch": (Classifier, "training_step", 1),
    "while the first checkpoint is written": (trainer_module, "_save", 1),
    "between two batches of a step": (Classifier, "training_step", 6),
    "between a row and its checkpoint": (trainer_module, "_save", 3),
    "while a step is written down": (CsvFile, "write", 3),
    "in validation": (Classifier, "validation_step", 1),
    "before a validation is written down": (Classifier, "on_validation_epoch_end", 1),
    "between the best checkpoint and the last": (trainer_module, "_save", 5),
    "in the second epoch": (Classifier, "training_step", 13),
    "while the bundle is written": (run_dir, "write_weights", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    moment: str,
    faces: Manifest,
    tiny: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: dict[str, bytes],
) -> None:
    # Dropout in the head and mixup: all that is random takes part.
    recipe = tiny(checkpoint_minutes=EVERY_STEP, accumulate=2)
    assert recipe.run.mixup
    assert recipe.model.head.dropout
    if not uninterrupted:
        fit(recipe, faces, tmp_path / "whole", progress=False)
        uninterrupted |= {name: (tmp_path / "whole" / name).read_bytes() for name in FILES}
    with monkeypatch.context() as patch:
        die_at(patch, *MOMENTS[moment])
        with pytest.raises(Killed):
            fit(recipe, faces, tmp_path / "cut", progress=False)
    assert not (tmp_path / "cut/bundle").exists()
    torch.manual_seed(99)  # whatever the state of the process that goes on
    fit(recipe, faces, tmp_path / "cut", resume=True, progress=False)
    for name in FILES:
        assert (tmp_path / "cut" / name).read_bytes() == uninterrupted[name], name


def test_the_bundle_holds_the_averaged_weights_of_the_best_epoch(
    faces: Manifest, tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    bundle = fit(tiny(), faces, tmp_path, progress=False)
    content = torch.load(tmp_path / BEST, weights_only=True)
    for name, tensor in open_weights(bundle.weights).tensors.items():
        assert torch.equal(tensor, content["state_dict"][f"model.{name}"].half()), name
    assert not all(
        torch.equal(tensor, content["state_dict"][name]) for name, tensor in content["current_model_state"].items()
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(".lock", "bundle", "checkpoints", "metrics.csv", "recipe.json", "run.json", "tensorboard", "validation.csv")
    ]


@pytest.mark.parametrize(("mixup_epochs", "expected"), [(None, [0.2] * 3), (1, [0.2, 0, 0]), (0, [0] * 3)])
def test_mixup_ends_after_some_epochs(
    mixup_epochs: int | None,
    expected: list[float],
    faces: Manifest,
    tiny: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alphas = []

    def mix(*arguments: Any) -> Any:
        alphas.append(arguments[2])
        return augment.mix(*arguments)

    monkeypatch.setattr("motivnet.training.module.mix", mix)
    fit(tiny(epochs=3, batch_size=56, mixup=0.2, mixup_epochs=mixup_epochs), faces, tmp_path, progress=False)
    assert alphas == expected


def test_low_rank_additions_are_merged_into_the_bundle(
    faces: Manifest, tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = dataclasses.replace(
        tiny(epochs=1), backbone=BackboneConfig(train="lora", lora_rank=2, layer_decay=0.5, recompute=True)
    )
    bundle = fit(recipe, faces, tmp_path / "lora", progress=False)
    plain = fit(tiny(epochs=1), faces, tmp_path / "plain", progress=False)
    assert open_weights(bundle.weights).tensors.keys() == open_weights(plain.weights).tensors.keys()


def test_a_finished_run_is_not_trained_again(
    faces: Manifest, tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fit(tiny(epochs=1), faces, tmp_path, progress=False)
    monkeypatch.setattr(fit_module, "make_trainer", None)
    again = fit(tiny(epochs=1), faces, tmp_path, resume=True, progress=False)
    assert (again.path, again.config) == (first.path, first.config)
    with pytest.raises(OutputError, match="holds a run already"):
        fit(tiny(epochs=1), faces, tmp_path, progress=False)


def test_mistakes_leave_nothing_behind(
    faces: Manifest, tiny: Callable[..., Recipe], released: Callable[..., Any], tmp_path: Path
) -> None:
    recipe, out = tiny(), tmp_path / "run"
    (tmp_path / "weights.pth").write_text("hello")
    backbone = BackboneConfig(weights=str(tmp_path / "weights.pth"))
    wider = BackboneConfig(weights=str(released("sapiens-task", embed_dim=48).path))
    nothing_angry = faces.select(np.array([label != "anger" for label in faces.table["label"].to_pylist()]))
    half = tiny(precision="bf16-true", ema_decay=0.0)
    resnet = dataclasses.replace(recipe.model, backbone="timm:test_resnet", vit=None)
    layered = dataclasses.replace(recipe, model=resnet, backbone=BackboneConfig(layer_decay=0.5))
    for wrong, rows, settings, error, message in (
        (recipe, faces, {"place": Place(devices=10_000)}, ConfigError, "--devices 10000: there are"),
        (recipe, faces, {"place": Place(strategy="fsdp")}, ConfigError, "averaged weights"),
        (recipe, faces, {"resume": True}, CheckpointError, "nothing to resume"),
        (recipe, faces, {"init": tmp_path / "absent"}, CheckpointError, "absent"),
        (dataclasses.replace(recipe, backbone=backbone), faces, {}, CheckpointError, "weights.pth: cannot be read"),
        (dataclasses.replace(recipe, backbone=wider), faces, {}, CheckpointError, "vit.embed_dim is 48, not 24"),
        (recipe, nothing_angry, {}, DataError, "no rows of anger"),
        (layered, faces, {}, ConfigError, "layer_decay"),
        (tiny(batch_size=57), faces, {}, DataError, "56 training rows do not fill one step of 57"),
        (dataclasses.replace(nano_fer2013(), run=half.run), faces, {}, ConfigError, "depthwise convolutions"),
    ):
        with pytest.raises(error, match=message):
            fit(wrong, rows, out, progress=False, **settings)  # type: ignore[arg-type]
        assert not out.exists()


def test_other_rows_cannot_go_on(
    faces: Manifest, tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        die_at(patch, run_dir, "write_weights", 1)
        with pytest.raises(Killed):
            fit(tiny(epochs=1), faces, tmp_path, progress=False)
    before = (tmp_path / LAST).read_bytes()
    with pytest.raises(DataError, match="the run was trained on other rows"):
        fit(tiny(epochs=1), faces.select(np.arange(1, 70)), tmp_path, resume=True, progress=False)
    assert (tmp_path / LAST).read_bytes() == before


def test_a_run_goes_on_with_the_weights_that_it_began_with(
    faces: Manifest, tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = {
        name: fit(tiny(epochs=1, seed=seed), faces, tmp_path / name, progress=False).path
        for seed, name in enumerate("ab")
    }
    out, recipe = tmp_path / "run", tiny(epochs=1, seed=2)
    with monkeypatch.context() as patch:
        die_at(patch, run_dir, "write_weights", 1)
        with pytest.raises(Killed):
            fit(recipe, faces, out, init=begun["a"], progress=False)
    with pytest.raises(ConfigError, match="the run started with other weights"):
        fit(recipe, faces, out, init=begun["b"], resume=True, progress=False)
    assert fit(recipe, faces, out, init=begun["a"], resume=True, progress=False).path.is_dir()


def test_by_name(faces: Manifest, tmp_path: Path) -> None:
    small = {"preprocessing.size": [32, 32], "model.image_size": [32, 32], "model.vit.depth": 1, "run.epochs": 1}
    overrides = small | {"run.batch_size": 28, "split.select": None, "split.hold_out": 0.5}
    write_manifest(faces, tmp_path / "faces.parquet")
    data = f"manifest:{tmp_path / 'faces.parquet'}"
    bundle = fit("mini-fer2013", data, str(tmp_path / "run"), overrides=overrides, progress=False)
    assert bundle.config.provenance["recipe"]["split"]["select"] is None
    assert bundle.config.provenance["data"] == {"source": "manifest:faces.parquet", "fingerprint": faces.fingerprint()}
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        fit("mini-fer2013", faces, tmp_path / "other", overrides={"run.epoch": 1})
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("run.seed=-1", "seed -1: must be at least 0"),
        ("run.mixup_epochs=-1", "mixup_epochs -1: must be at least 0"),
        ("split.seed=4294967296", "seed 4294967296: must be at most 4294967295"),
        ("loss.label_smoothing=2", "label_smoothing 2.0: must be at most 1"),
        ("loss.affect_weight=0", "affect_weight 0.0: must be above 0"),
    ],
)
def test_numbers_out_of_range(setting: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config.override(nano_fer2013(), [setting])

"""What recipes promise."""

import json
from typing import Any

import pytest

from motivnet import config
from motivnet.checkpoints.released import released
from motivnet.errors import ConfigError
from motivnet.models.config import preset
from motivnet.preprocess import MOTIVNET_STRETCH
from motivnet.training.recipes import MOTIVNET_WEIGHTS, RECIPES, describe, recipe
from motivnet.training.settings import BackboneConfig, OptimizerConfig, Place, Recipe, RunConfig, SplitConfig


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_whole(name: str) -> None:
    chosen = recipe(name)
    assert chosen.name == name
    assert chosen.split.train != chosen.split.select
    assert chosen.preprocessing.size == chosen.model.image_size
    assert chosen.preprocessing.num_channels == chosen.model.in_chans
    assert config.from_plain(Recipe, config.to_plain(chosen)) == chosen


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_what_it_does(name: str) -> None:
    text = describe(name)
    assert len(text) > 200
    assert text.startswith(("Train", "Fine-tune"))
    assert not set("{}") & set(text)
    assert max(map(len, text.splitlines())) <= 120


def test_the_papers_recipe() -> None:
    chosen = recipe("motivnet-1b")
    assert chosen.model == preset("motivnet-1b")
    assert chosen.model.head.num_layers == 2
    assert chosen.model.head.dim == 1152
    assert chosen.preprocessing == MOTIVNET_STRETCH
    assert chosen.backbone == BackboneConfig(weights="sapiens-pose-1b", recompute=True)
    assert (chosen.optimizer.backbone_lr, chosen.optimizer.head_lr) == (1e-7, 1e-5)
    assert (chosen.optimizer.schedule, chosen.optimizer.warmup) == ("warm-restarts", 0)
    assert (chosen.optimizer.restart_epochs, chosen.optimizer.restart_factor) == (10, 1)
    assert (chosen.run.epochs, chosen.run.batch_size, chosen.run.accumulate) == (10, 2, 8)
    assert (chosen.run.precision, chosen.run.ema_decay, chosen.run.mixup) == ("bf16-mixed", 0, 0)
    assert chosen.sampling.kind == "uniform"
    assert chosen.loss.label_smoothing == chosen.loss.prior_weight == chosen.loss.vote_weight == 0


@pytest.mark.parametrize("name", MOTIVNET_WEIGHTS)
def test_other_sizes_differ_in_the_encoder_alone(name: str) -> None:
    chosen, first = recipe(name), recipe("motivnet-1b")
    assert chosen.model == preset(name)
    weights = chosen.backbone.weights
    assert weights is not None
    size = name.removeprefix("motivnet-").removeprefix("sapiens2-")
    assert released(weights).name.endswith(f"-{size}")
    assert ("sapiens2" in name) == weights.startswith("sapiens2-")
    assert (
        config.override(first, [f"name={name}", f"backbone.weights={weights}", f"model={config_text(chosen.model)}"])
        == chosen
    )
    assert ("untested" in describe(name)) == (name != "motivnet-1b")


def test_weights_of_other_tasks_are_named() -> None:
    text = describe("motivnet-1b")
    names = [f"sapiens-{task}-1b" for task in ("pretrain", "depth", "normal", "seg")]
    assert f"one of\n{', '.join(names)}." in text
    assert "sapiens2-seg-0.4b" in describe("motivnet-sapiens2-0.4b")


def config_text(settings: object) -> str:
    return json.dumps(config.to_plain(settings))


@pytest.mark.parametrize(
    "setting",
    [
        "split.select=val",
        "split.hold_out=0.2",
        "run.epochs=20",
        "backbone.train=none",
        "backbone.train=last",
        "backbone.last_blocks=4",
        "backbone.train=lora",
        "backbone.lora_rank=16",
        "backbone.layer_decay=0.9",
        "optimizer.backbone_lr=1e-4",
    ],
)
def test_settings_that_its_text_names_exist(setting: str) -> None:
    assert setting in describe("motivnet-1b")
    config.override(recipe("motivnet-1b"), [setting])


def test_the_length_of_the_run_ends_where_the_cosine_does() -> None:
    """So that ten epochs never restart, which the text says."""
    chosen = recipe("motivnet-1b")
    assert chosen.run.epochs == chosen.optimizer.restart_epochs
    assert "never restarts" in describe("motivnet-1b")


def test_names_nobody_knows() -> None:
    for ask in (recipe, describe):
        with pytest.raises(ConfigError, match="unknown recipe 'nano-fer2031'; did you mean 'nano-fer2013'"):
            ask("nano-fer2031")


@pytest.mark.parametrize("change", [{"epochs": 0}, {"batch_size": 0}, {"ema_decay": 1.0}, {"patience": 0}])
def test_runs_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(change))} .*: must be (at least|below) 1"):
        RunConfig(**{"epochs": 1, "batch_size": 1, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"backbone_lr": 0.0},
        {"head_lr": -1.0},
        {"head_lr": float("nan")},
        {"warmup": 1.0},
        {"betas": (0.9, 1.0)},
        {"restart_epochs": 0.0},
        {"weight_decay": -0.1},
    ],
)
def test_optimizers_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        OptimizerConfig(**{"backbone_lr": 1e-3, "head_lr": 1e-3, **change})


@pytest.mark.parametrize("change", [{"layer_decay": 0.0}, {"layer_decay": 1.1}, {"last_blocks": 0}, {"lora_rank": 0}])
def test_backbones_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        BackboneConfig(**change)


def test_splits_and_places_out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"hold_out 1\.0: must be below 1"):
        SplitConfig(train="train", hold_out=1.0)
    with pytest.raises(ConfigError, match="another split than train"):
        SplitConfig(train="train", select="train")
    with pytest.raises(ConfigError, match="at least 1"):
        Place(devices=0)

"""The grids: every cell of each question, and nothing else that differs."""

import dataclasses
import re
from pathlib import Path

import pytest

from motivnet import config
from motivnet.errors import ConfigError
from motivnet.experiments.grids import SAPIENS_TASKS, Cell, Grid, make_grid
from motivnet.models.config import HeadConfig
from motivnet.training.settings import Recipe

ENCODER = Path("runs/mae/bundle")


def grid(name: str, *settings: str, **options) -> Grid:
    if name in ("head", "pretraining"):
        options.setdefault("encoder", ENCODER)
    return make_grid(name, settings, **options)


def recipes(made: Grid) -> list[Recipe]:
    return [made.recipe_of(cell) for cell in made.cells]


@pytest.mark.parametrize("name", ["head", "sampling", "pretraining", "backbone"])
def test_names_are_folders_and_comparisons_are_of_cells(name: str) -> None:
    made = grid(name)
    assert all(re.fullmatch(r"[a-z0-9.-]+", each) for each in made.cells)
    assert made.comparisons
    assert {each for pair in made.comparisons for each in pair} <= set(made.cells)


def test_head_has_fourteen_cells() -> None:
    made = grid("head")
    heads = {
        (head.kind, head.num_layers if head.kind == "ml_decoder" else None, head.learnable_queries)
        for head in (recipe.model.head for recipe in recipes(made))
    }
    decoders = {("ml_decoder", layers, learnable) for layers in (1, 2) for learnable in (False, True)}
    assert heads == decoders | {(kind, None, False) for kind in ("linear", "mlp", "attention_pool")}
    assert [recipe.backbone.train for recipe in recipes(made)] == ["none"] * 7 + ["all"] * 7
    assert made.varied() == [
        "backbone.train",
        "model.head.kind",
        "model.head.learnable_queries",
        "model.head.num_layers",
    ]
    assert {recipe.backbone.weights for recipe in recipes(made)} == {str(ENCODER)}
    # Each half is compared with its own reference.
    assert all(cell.partition(".")[0] == reference.partition(".")[0] for cell, reference in made.comparisons)
    assert len(made.comparisons) == 12


def test_sampling_changes_the_sampling_alone() -> None:
    made = grid("sampling")
    assert [recipe.sampling.kind for recipe in recipes(made)] == ["natural", "uniform", "class-weighted", "balanced"]
    assert made.varied() == ["sampling.kind"]
    assert {recipe.loss.prior_weight for recipe in recipes(made)} == {0.0}


def test_pretraining_changes_the_start_and_the_labels_alone() -> None:
    made = grid("pretraining")
    assert [(made.recipe_of(name).backbone.weights, cell.label_share) for name, cell in made.cells.items()] == [
        (start, share) for share in (1.0, 0.25, 0.05) for start in (None, str(ENCODER))
    ]
    assert made.varied() == ["backbone.weights"]
    shares = {name: cell.label_share for name, cell in made.cells.items()}
    assert all(shares[cell] == shares[reference] for cell, reference in made.comparisons)


def test_backbone_changes_the_weights_alone() -> None:
    made = grid("backbone", size="1b", weights=["depth=depth.pth"])
    assert [recipe.backbone.weights for recipe in recipes(made)] == [
        "sapiens-pose-1b",
        "depth.pth",
        "sapiens-normal-1b",
        "sapiens-seg-1b",
        "sapiens-pretrain-1b",
    ]
    assert made.varied() == ["backbone.weights"]
    assert made.recipe.model.vit
    assert made.recipe.model.vit.embed_dim == 1536
    assert [cell for cell, _ in made.comparisons] == [task for task in SAPIENS_TASKS if task != "pose"]


def test_backbone_without_what_was_never_released() -> None:
    assert list(grid("backbone", size="2b").cells) == ["depth", "normal", "pretrain"]
    assert grid("backbone", size="2b").comparisons == (("depth", "pretrain"), ("normal", "pretrain"))
    assert len(grid("backbone", size="2b", weights=["pose=own.pth", "seg=own.pth"]).cells) == 5


def test_settings_reach_every_cell() -> None:
    made = grid("head", "run.epochs=2", "optimizer.head_lr=0.5", label_share=0.5)
    assert {(recipe.run.epochs, recipe.optimizer.head_lr) for recipe in recipes(made)} == {(2, 0.5)}
    assert {cell.label_share for cell in made.cells.values()} == {0.5}


@pytest.mark.parametrize(
    ("name", "setting", "decided"),
    [
        ("head", "model.head.kind=linear", "model.head.kind"),
        ("head", "backbone.train=none", "backbone.train"),
        ("sampling", "sampling.kind=natural", "sampling.kind"),
        ("sampling", "loss.prior_weight=1", "loss.prior_weight"),
        ("pretraining", "backbone.weights=x", "backbone.weights"),
        ("sampling", "run.seed=3", "run.seed"),
    ],
)
def test_what_a_grid_decides_cannot_be_set(name: str, setting: str, decided: str) -> None:
    with pytest.raises(ConfigError, match=f"decides {re.escape(decided)} itself"):
        grid(name, setting)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("heads", {}, "unknown ablation 'heads'; did you mean 'head'"),
        ("head", {"encoder": None}, "needs a pre-trained encoder: --encoder BUNDLE"),
        ("pretraining", {"encoder": None}, "needs a pre-trained encoder"),
        ("pretraining", {"label_share": 0.5}, "shares of its own: 100%, 25%, 5%"),
        ("sampling", {"label_share": 0.0}, "share of the labels must be above 0"),
        ("sampling", {"weights": ["pose=x"]}, "--weights is of the ablation backbone"),
        ("backbone", {"size": "3b"}, "unknown size '3b'"),
        ("backbone", {"weights": ["dept=x"]}, "did you mean 'depth'"),
        ("backbone", {"encoder": ENCODER}, "encoders of its own"),
    ],
)
def test_options_that_do_not_fit(name: str, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        grid(name, **options)


def test_a_grid_is_plain_data() -> None:
    made = grid("head")
    assert config.from_plain(Grid, config.to_plain(made)) == made


def test_varied_names_what_only_some_cells_have() -> None:
    nothing = dataclasses.replace(grid("sampling"), cells={"a": Cell(settings=("optimizer.head_lr=1e-4",))})
    assert nothing.varied() == []
    assert not HeadConfig().learnable_queries

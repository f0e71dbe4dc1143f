"""What `motivnet train --dry-run` prints."""

import json

import pytest

from motivnet import config
from motivnet.cli.dry_run import changes, show_dry_run
from motivnet.errors import ConfigError
from motivnet.training.estimate import estimate
from motivnet.training.mae.pretrain_recipes import pretrain_recipe
from motivnet.training.recipes import recipe
from motivnet.training.settings import Place, Recipe


@pytest.fixture
def chosen() -> Recipe:
    return config.override(recipe("mini-fer2013"), ["run.batch_size=8", "model.vit.depth=1", "backbone.weights=here"])


def cells(printed: str, start: str) -> list[str]:
    """Give the words of the first line that begins so."""
    return next(line for line in printed.splitlines() if line.strip().startswith(start)).split()


def test_tables(chosen: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    show_dry_run(chosen, Place(accelerator="cpu"), device_gb=None, as_json=False)
    printed = capsys.readouterr().out
    found = estimate(chosen, Place())
    # What was changed stands beside what it was.
    assert cells(printed, "run.batch_size") == ["run.batch_size", "8", "64"]
    assert cells(printed, "backbone.weights") == ["backbone.weights", '"here"', "null"]
    assert cells(printed, "run.epochs") == ["run.epochs", str(chosen.run.epochs)]
    assert cells(printed, "trained")[-1] == f"{found.trained_parameters:,}"
    assert cells(printed, "head_no_decay")[-1] == f"{found.groups['head_no_decay']:,}"
    assert cells(printed, "images an optimizer step")[-1] == "8"
    assert cells(printed, "together")[-1] == f"{found.memory.total / 1e9:#.3g}"
    assert "averaged weights" not in printed
    assert len([line for line in printed.splitlines() if line.rstrip().endswith("this run")]) == 1
    assert "--device-gb says if it fits" in printed


def test_fits(chosen: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    show_dry_run(chosen, Place(), device_gb=24, as_json=False)
    printed = capsys.readouterr().out
    assert "FITS: " in printed
    assert "NOT FIT" not in printed
    assert "2.2 GB of reserve, on a device of 24 GB" in printed


def test_does_not_fit_and_is_no_failure(chosen: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    show_dry_run(chosen, Place(), device_gb=1, as_json=False)
    printed = capsys.readouterr().out
    assert "DOES NOT FIT: " in printed
    assert "none of the settings is enough" in printed


def test_json(chosen: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    place = Place(devices=2, strategy="fsdp")
    show_dry_run(chosen, place, device_gb=24, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert config.from_plain(Recipe, printed["recipe"]) == chosen
    assert config.from_plain(Place, printed["place"]) == place
    assert printed["changed"] == {"run.batch_size": 64, "model.vit.depth": 4, "backbone.weights": None}
    assert printed["estimate"] == config.to_plain(estimate(chosen, place, device_gb=24))


def test_a_recipe_that_nobody_knows_has_no_changes(chosen: Recipe) -> None:
    assert changes(config.override(chosen, ["name=mine"])) == {}
    assert changes(pretrain_recipe("mae")) == {}


def test_pretraining(capsys: pytest.CaptureFixture[str]) -> None:
    small = config.override(pretrain_recipe("mae"), ["model.vit.depth=1", "mae.decoder_depth=1"])
    show_dry_run(small, Place(), device_gb=24, as_json=False)
    printed = capsys.readouterr().out
    assert cells(printed, "mae.mask_ratio") == ["mae.mask_ratio", "0.75"]
    assert "decoder_no_decay" in printed


def test_a_device_without_memory(chosen: Recipe) -> None:
    with pytest.raises(ConfigError, match="--device-gb must be positive, not 0"):
        show_dry_run(chosen, Place(), device_gb=0, as_json=False)


def test_settings_by_dotted_name() -> None:
    assert config.flatten({"a": {"b": 1, "c": [2, 3]}, "d": None}) == {"a.b": 1, "a.c": [2, 3], "d": None}

"""`motivnet pretrain`: run a recipe of masked autoencoding."""

from pathlib import Path
from typing import Annotated

from motivnet.cli.console import echo
from motivnet.cli.options import argument, option
from motivnet.cli.train import RunOptions, SetOption, best_epoch, choose_recipe
from motivnet.errors import ConfigError, needs_extra


def pretrain(
    name: Annotated[str | None, argument("RECIPE")] = None,
    data: Annotated[str | None, option("KIND:PATH")] = None,
    settings: SetOption = None,
    *,
    options: RunOptions,
) -> None:
    """Pre-train an encoder on unlabelled faces; it becomes a bundle in DIR/bundle (needs the extra `train`).

    `motivnet train RECIPE --set backbone.weights=DIR/bundle` continues with it. `DIR/metrics.csv` holds the loss curve,
    `DIR/reconstructions` pictures. `motivnet pretrain` alone lists the recipes, `motivnet pretrain RECIPE --show`
    describes one, with its cost.

    Example: motivnet pretrain mae --data images:faces --out runs/mae

    Options:
        name: Such as mae; without one, all are listed.
        data: Faces, such as images:FOLDER, which need no labels, or fer2013:FILE.
    """
    with needs_extra("torch", "train"):
        from motivnet.training.mae.pretrain_recipes import PRETRAIN_RECIPES
    recipe = choose_recipe("pre-training recipe", name, PRETRAIN_RECIPES, settings, options)
    if name is None or recipe is None:
        return
    if data is None:
        raise ConfigError("--data is missing. Allowed: KIND:PATH, such as images:FOLDER or fer2013:fer2013.parquet")
    with needs_extra("torch", "train"):
        from motivnet.training.mae.pretrain import pretrain as run
        from motivnet.training.trainer import is_first
    bundle = run(recipe, data, options.out or Path("runs") / name, place=options.place(), resume=options.resume)
    if is_first():
        echo(f"{bundle.path}: an encoder, of {best_epoch(bundle)}")
        echo(f"train a head on it: motivnet train RECIPE --set backbone.weights={bundle.path}")

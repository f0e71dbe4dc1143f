"""`motivnet pretrain`: run a recipe of masked autoencoding."""

from pathlib import Path
from typing import Annotated

import typer

from motivnet.cli.runs import (
    AcceleratorOption,
    DeviceGbOption,
    DevicesOption,
    DryRunOption,
    JsonOption,
    NodesOption,
    OutOption,
    ResumeOption,
    SetOption,
    ShowOption,
    StrategyOption,
    list_recipes,
    make_place,
    talk_about,
    without_folders,
)


def pretrain(
    name: Annotated[
        str | None,
        typer.Argument(help="Such as mae; without one, all are listed.", metavar="RECIPE", show_default=False),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="KIND:PATH", help="Faces, such as images:FOLDER, which need no labels, or fer2013:FILE."),
    ] = None,
    out: OutOption = None,
    settings: SetOption = None,
    resume: ResumeOption = False,
    show: ShowOption = False,
    dry_run: DryRunOption = False,
    device_gb: DeviceGbOption = None,
    as_json: JsonOption = False,
    devices: DevicesOption = 1,
    nodes: NodesOption = 1,
    strategy: StrategyOption = "ddp",
    accelerator: AcceleratorOption = "auto",
) -> None:
    """Pre-train an encoder on faces without labels; it becomes a bundle in DIR/bundle (needs the extra `train`).

    `motivnet train RECIPE --set backbone.weights=DIR/bundle` goes on from it. `DIR/metrics.csv` holds the loss curve,
    `DIR/reconstructions` pictures. `motivnet pretrain` alone lists the recipes, `motivnet pretrain RECIPE --show` says
    what one does and costs.
    """
    from motivnet import config
    from motivnet.errors import ConfigError, needs_extra

    with needs_extra("torch", "train"):
        from motivnet.data.sources.named import read_source
        from motivnet.training.mae import pretrain_recipes

    if name is None:
        list_recipes(pretrain_recipes.PRETRAIN_RECIPES, pretrain_recipes.describe)
        return
    recipe = config.override(pretrain_recipes.pretrain_recipe(name), settings or [])
    place = make_place(devices, nodes, strategy, accelerator)
    if talk_about(
        recipe,
        pretrain_recipes.describe(name),
        place,
        show=show,
        dry_run=dry_run,
        device_gb=device_gb,
        as_json=as_json,
    ):
        return
    if data is None:
        raise ConfigError("--data is missing. Allowed: KIND:PATH, such as images:FOLDER or fer2013:fer2013.parquet")
    with needs_extra("torch", "train"):
        from motivnet.training.mae.pretrain import pretrain as run
        from motivnet.training.trainer import check_place, is_first

    check_place(place, recipe)
    manifest = read_source(data)
    bundle = run(
        recipe,
        manifest,
        out or Path("runs") / name,
        place=place,
        resume=resume,
        provenance={"data": {"source": without_folders(data), "fingerprint": manifest.fingerprint()}},
    )
    if is_first():
        typer.echo(f"{bundle.path}: an encoder, selected at {bundle.config.provenance['selected']}")
        typer.echo(f"train a head on it: motivnet train RECIPE --set backbone.weights={bundle.path}")

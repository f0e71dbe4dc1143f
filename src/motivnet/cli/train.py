"""`motivnet train`: run a recipe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from motivnet.checkpoints.bundle import Bundle


def train(
    name: Annotated[
        str | None,
        typer.Argument(help="Such as nano-fer2013; without one, all are listed.", metavar="RECIPE", show_default=False),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="KIND:PATH", help="Labelled faces, such as fer2013:fer2013.parquet or affectnet:FOLDER."),
    ] = None,
    out: OutOption = None,
    settings: SetOption = None,
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="BUNDLE", help="Start from a whole model; from an encoder: --set backbone.weights=FILE_OR_NAME."
        ),
    ] = None,
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
    """Train by a recipe; the best epoch becomes a bundle with ONNX in DIR/bundle (needs the extra `train`).

    `DIR/metrics.csv` holds the loss curve. `motivnet train` alone lists the recipes, `motivnet train RECIPE --show`
    says what one does, costs and should score.
    """
    from motivnet import config
    from motivnet.errors import ConfigError, needs_extra

    with needs_extra("torch", "train"):
        from motivnet.data.sources.named import read_source
        from motivnet.training import recipes

    if name is None:
        list_recipes(recipes.RECIPES, recipes.describe)
        return
    recipe = config.override(recipes.recipe(name), settings or [])
    place = make_place(devices, nodes, strategy, accelerator)
    if talk_about(
        recipe,
        recipes.describe(name),
        place,
        show=show,
        dry_run=dry_run,
        device_gb=device_gb,
        as_json=as_json,
    ):
        return
    if data is None:
        raise ConfigError("--data is missing. Allowed: KIND:PATH, such as fer2013:fer2013.parquet or affectnet:FOLDER")
    with needs_extra("torch", "train"):
        from motivnet.training.fit import fit
        from motivnet.training.trainer import check_place, is_first

    check_place(place, recipe)
    manifest = read_source(data)
    bundle = fit(
        recipe,
        manifest,
        out or Path("runs") / name,
        place=place,
        init=init,
        resume=resume,
        provenance={"data": {"source": without_folders(data), "fingerprint": manifest.fingerprint()}},
    )
    if is_first():
        _finish(bundle)


def _finish(bundle: "Bundle") -> None:
    """Export a bundle to ONNX, and say where it is; only one of several processes does."""
    from motivnet.errors import needs_extra

    with needs_extra("onnx", "train"):
        from motivnet.export.onnx import export_onnx
        from motivnet.export.verify import verify_onnx

    export_onnx(bundle)
    agreement = verify_onnx(bundle)
    typer.echo(f"{bundle.path}: selected at {bundle.config.provenance['selected']}")
    typer.echo(f"ONNX differs from torch by at most {agreement.largest:.1e}")

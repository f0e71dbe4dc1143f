"""`motivnet train`: run a recipe."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, such as nano-fer2013.", metavar="RECIPE")],
    data: Annotated[Path | None, typer.Option(help="FER-2013: Parquet file, Kaggle's CSV, or folder.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default: runs/RECIPE.")] = None,
    init: Annotated[
        Path | None, typer.Option(help="Start from torchvision's mobilenet_v2 .pth, or from a bundle's folder.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the recipe, such as run.epochs=2; repeatable.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the recipe with all its settings, and stop.")] = False,
) -> None:
    """Train by a recipe; the best epoch becomes a bundle with ONNX in OUT/bundle (needs the extra `train`)."""
    import json

    from motivnet import config
    from motivnet.cli.extras import needs_extra
    from motivnet.errors import ConfigError

    with needs_extra("torch", "train"):
        from motivnet.data.sources.fer2013 import read_fer2013
        from motivnet.export.onnx import export_onnx
        from motivnet.export.verify import verify_onnx
        from motivnet.training import recipes
        from motivnet.training.fit import fit

    chosen = config.override(recipes.recipe(recipe), settings or [])
    if show:
        typer.echo(json.dumps(config.to_plain(chosen), indent=2))
        return
    if data is None:
        raise ConfigError("--data is missing: where FER-2013 is")
    bundle = fit(
        chosen,
        read_fer2013(data),
        out or Path("runs") / recipe,
        init=init,
        resume=resume,
        provenance={"data": data.name},
    )
    export_onnx(bundle)
    agreement = verify_onnx(bundle)
    typer.echo(f"{bundle.path}: selected at {bundle.config.provenance['selected']}")
    typer.echo(f"ONNX differs from torch by at most {agreement.largest:.1e} in any probability")

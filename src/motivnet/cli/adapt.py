"""`motivnet adapt`: train with labelled faces, and adapt to others without labels."""

from pathlib import Path
from typing import Annotated

from motivnet import config
from motivnet.cli.console import echo
from motivnet.cli.options import argument, flag, option
from motivnet.cli.train import SetOption
from motivnet.errors import needs_extra


def adapt(
    method: Annotated[str, argument("METHOD", "source-only, batchnorm, mmd, dann, cdan, ecan, agra or csrl.")],
    source: Annotated[str, option("KIND:PATH@SPLIT", "Labelled faces to train on.")],
    target: Annotated[str, option("KIND:PATH[@SPLIT]", "Faces to adapt to; labels only score.")],
    out: Annotated[Path, option("DIR", "Folder of the run.")],
    recipe: Annotated[str, option("RECIPE", "Recipe of `motivnet train`.")] = "nano-fer2013",
    settings: SetOption = None,
    init: Annotated[Path | None, option("BUNDLE", "Start from a whole model, such as one of source-only.")] = None,
    resume: Annotated[bool, flag("--resume", "Continue with what DIR holds.")] = False,
    show: Annotated[bool, flag("--show", "Print the recipe with all its settings, and exit.")] = False,
) -> None:
    """Adapt a model to faces without labels (needs the extra `train`).

    DIR gets a bundle, predictions.parquet of the target and result.json, with the scores of each way to choose the
    epoch: by held-out source faces, without labels, and by the target's labels (oracle).

    Example: motivnet adapt dann --source fer2013:fer2013.parquet@Training --target images:faces --out runs/dann
    """
    with needs_extra("torch", "train"):
        from motivnet.experiments import adaptation
    if show:
        chosen = adaptation.chosen_recipe(method, source, recipe, settings or [])
        echo(config.to_json(config.to_plain(chosen), indent=2))
        return
    found = adaptation.adapt(
        method, source, target, out, recipe=recipe, settings=settings or [], init=init, resume=resume
    )
    for way, epoch in found["chosen"].items():
        scores = ", ".join(f"{name.upper()} {100 * epoch[name]:.1f} %" for name in ("war", "uar") if name in epoch)
        echo(f"chosen by {way}: epoch {epoch['epoch']}{', ' if scores else ''}{scores}")

"""`motivnet adapt`: train with labelled faces, and adapt to others without labels."""

from pathlib import Path
from typing import Annotated

from motivnet import config
from motivnet.cli.console import echo
from motivnet.cli.options import argument, flag, option
from motivnet.cli.train import SetOption
from motivnet.errors import needs_extra


def adapt(
    method: Annotated[str, argument("METHOD")],
    source: Annotated[str, option("KIND:PATH@SPLIT")],
    target: Annotated[str, option("KIND:PATH[@SPLIT]")],
    out: Annotated[Path, option("DIR")],
    recipe: Annotated[str, option("RECIPE")] = "nano-fer2013",
    settings: SetOption = None,
    init: Annotated[Path | None, option("BUNDLE")] = None,
    resume: Annotated[bool, flag("--resume")] = False,
    show: Annotated[bool, flag("--show")] = False,
) -> None:
    """Adapt a model to faces without labels (needs the extra `train`).

    DIR gets a bundle, predictions.parquet of the target and result.json, with the scores of each way to choose the
    epoch: by held-out source faces, without labels, and by the target's labels (oracle).

    Example: motivnet adapt dann --source fer2013:fer2013.parquet@Training --target images:faces --out runs/dann

    Options:
        method: source-only, batchnorm, mmd, dann, cdan, ecan, agra or csrl.
        source: Labelled faces to train on.
        target: Faces to adapt to; labels only score.
        out: Folder of the run.
        recipe: Recipe of `motivnet train`.
        init: Start from a whole model, such as one of source-only.
        resume: Continue with what DIR holds.
        show: Print the recipe with all its settings, and exit.
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

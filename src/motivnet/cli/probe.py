"""`motivnet probe`: train probes on the cached tokens of a frozen encoder."""

from pathlib import Path
from typing import Annotated

import typer

from motivnet.cli.console import echo
from motivnet.cli.options import argument, flag, option
from motivnet.cli.train import SetOption
from motivnet.config import to_json, to_plain
from motivnet.errors import needs_extra


def probe(
    recipe: Annotated[str, argument("RECIPE")] = "mini-fer2013",
    *,
    out: Annotated[Path, option("DIR")],
    data: Annotated[str, option("KIND:PATH")],
    settings: SetOption = None,
    rates: Annotated[list[float] | None, flag("--rate")] = None,
    decays: Annotated[list[float] | None, flag("--decay")] = None,
    seeds: Annotated[int, typer.Option(min=2)] = 3,
    report_split: Annotated[str, option("SPLIT", "--report")] = "PrivateTest",
    resume: Annotated[bool, flag("--resume")] = False,
    show: Annotated[bool, flag("--show")] = False,
) -> None:
    """Compare probes on a frozen encoder, `--set backbone.weights=...` (needs the extras `train` and `evaluate`).

    The encoder's tokens are computed once, without augmentation. Each run takes the learning rate and weight decay that
    are best on the selection split, which is not the one that is scored. DIR/report has tables and tests.

    Example: motivnet probe mini-fer2013 --data fer2013:fer2013.parquet --out runs/probes

    Options:
        recipe: Recipe of `motivnet train`.
        out: Folder of the comparison.
        data: Labelled faces, in splits.
        rates: Learning rate to try; repeatable.
        decays: Weight decay to try; repeatable.
        seeds: Runs per probe.
        report_split: Split to score.
        resume: Continue with what DIR holds.
        show: Print all settings, and exit.
    """
    with needs_extra("torch", "train"):
        from motivnet.data.sources.named import read_source
        from motivnet.experiments import probes
        from motivnet.report.ablation_report import headline
        from motivnet.training.fit import without_folders

    swept = {"rates": rates or probes.RATES, "decays": decays or probes.DECAYS}
    grid = probes.probe_grid(recipe, settings or (), **swept, report_split=report_split)
    if show:
        echo(to_json(to_plain(grid), indent=2))
        return
    run = {"data": without_folders(data), "seeds": seeds, "resume": resume}
    report = probes.probe(grid, read_source(data), out, say=lambda line: echo(line, err=True), **run)
    echo(headline(report) if report else "other processes are working on the other runs; the last writes the report")

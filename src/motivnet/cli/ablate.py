"""`motivnet ablate`: compare recipes over several seeds."""

from pathlib import Path
from typing import Annotated

import typer

from motivnet.cli.console import echo
from motivnet.cli.options import argument, flag, option
from motivnet.cli.train import SetOption
from motivnet.errors import ConfigError, needs_extra


def ablate(
    name: Annotated[str, argument("ABLATION")],
    out: Annotated[Path, option("DIR")],
    data: Annotated[str | None, option("KIND:PATH")] = None,
    seeds: Annotated[int, typer.Option(min=2)] = 3,
    settings: SetOption = None,
    encoder: Annotated[Path | None, option("BUNDLE")] = None,
    size: str = "0.3b",
    weights: Annotated[list[str] | None, option("VARIANT=FILE")] = None,
    labels: Annotated[float, option("SHARE")] = 1.0,
    report_split: Annotated[str | None, option("SPLIT", "--report")] = None,
    resume: Annotated[bool, flag("--resume")] = False,
    report_only: Annotated[bool, flag("--report-only")] = False,
) -> None:
    """Run a grid of recipes, and report mean, spread and a paired test (needs the extras `train` and `evaluate`).

    Example: motivnet ablate head --data fer2013:fer2013.parquet --out runs/head

    Options:
        name: head, sampling, pretraining or backbone.
        out: Folder of the ablation.
        data: Labelled face crops, in splits.
        seeds: Runs per cell.
        encoder: From `motivnet pretrain`: DIR/bundle.
        size: Sapiens encoders of `backbone`: 0.3b, 0.6b, 1b or 2b.
        weights: For `backbone`: the file of pose, depth, normal, seg or pretrain; repeatable. Others are found by name
            in the cache of `motivnet weights`.
        labels: Share of each class's rows to train on.
        report_split: Split to score: PrivateTest, of `backbone` val.
        resume: Continue with what DIR holds; several processes may.
        report_only: Only write the report of completed runs.
    """
    with needs_extra("torch", "train"):
        from motivnet.data.sources.named import read_source
        from motivnet.experiments import ablation
        from motivnet.experiments.grids import make_grid
        from motivnet.report.ablation_report import FILES, headline
        from motivnet.training.fit import without_folders

    if report_only:
        report = ablation.write_report(out, name=name)
    else:
        grid = make_grid(name, settings or (), encoder=encoder, size=size, weights=weights or (), label_share=labels)
        ablation.check_weights(grid)
        if data is None:
            raise ConfigError("--data is missing. Allowed: KIND:PATH, such as fer2013:fer2013.parquet")
        report = ablation.ablate(
            grid,
            read_source(data),
            out,
            data=without_folders(data),
            seeds=seeds,
            report_split=report_split,
            resume=resume,
            say=lambda line: echo(line, err=True),
        )
    if report is None:
        echo("other processes are working on the other runs; the last to finish writes the report", err=True)
        return
    echo(headline(report))
    echo(f"written to {out / 'report'}: {', '.join(FILES)}", err=True)

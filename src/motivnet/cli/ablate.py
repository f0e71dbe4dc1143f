"""`motivnet ablate`: compare recipes over several seeds."""

from pathlib import Path
from typing import Annotated

import typer


def ablate(
    name: Annotated[str, typer.Argument(help="head, sampling, pretraining or backbone.", metavar="ABLATION")],
    out: Annotated[Path, typer.Option(metavar="DIR", show_default=False, help="Folder of the ablation.")],
    data: Annotated[
        str | None, typer.Option(metavar="KIND:PATH", show_default=False, help="Labelled crops of faces, in splits.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=2, help="Runs of each cell.")] = 3,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of all recipes, such as run.epochs=2; repeatable.")
    ] = None,
    encoder: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", show_default=False, help="Of `motivnet pretrain`: DIR/bundle.")
    ] = None,
    size: Annotated[str, typer.Option(help="Of Sapiens' encoders, of `backbone`: 0.3b, 0.6b, 1b or 2b.")] = "0.3b",
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VARIANT=FILE",
            help="Of `backbone`: the file of pose, depth, normal, seg or pretrain; repeatable. Others are found by "
            "name in the cache of `motivnet weights`.",
        ),
    ] = None,
    labels: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of each class's training rows that is learnt from.")
    ] = 1.0,
    report_split: Annotated[
        str | None,
        typer.Option(
            "--report", metavar="SPLIT", help="What is reported, and nothing selected on: PrivateTest, of backbone val."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with what DIR holds, beside other processes if there are any."),
    ] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Write the report of the runs that are done, and run nothing.")
    ] = False,
) -> None:
    """Run a grid of recipes, and report mean, spread and a paired test (needs the extras `train` and `evaluate`)."""
    from motivnet.cli.extras import needs_extra
    from motivnet.errors import ConfigError
    from motivnet.inference.tables import open_folder

    with needs_extra("torch", "train"):
        from motivnet.data.sources.named import read_source
        from motivnet.experiments import ablation as ablation
        from motivnet.experiments.grids import GridOptions, make_grid
        from motivnet.report.ablation_report import FILES, headline, summarise, write_report
        from motivnet.training.fit import without_folders

    if not report_only:
        options = GridOptions(
            settings=settings or [], encoder=encoder, size=size, weights=_pairs(weights or []), label_share=labels
        )
        grid = make_grid(name, options)
        ablation.check_weights(grid)
        if data is None:
            raise ConfigError("--data is missing. Allowed: KIND:PATH, such as fer2013:fer2013.parquet")
        complete = ablation.ablate(
            grid,
            read_source(data),
            out,
            data=without_folders(data),
            seeds=seeds,
            report_split=report_split,
            resume=resume,
            say=lambda line: typer.echo(line, err=True),
        )
        if not complete:
            typer.echo("the other runs are other processes'; the last to end writes the report", err=True)
            return
    summary = summarise(out)
    if summary.plan.grid.name != name:
        raise ConfigError(f"{out}: holds the ablation {summary.plan.grid.name!r}, not {name!r}")
    with open_folder(out / "report", FILES, overwrite=True) as folder:
        write_report(summary, folder)
    typer.echo(headline(summary))
    typer.echo(f"written to {out / 'report'}: {', '.join(FILES)}", err=True)


def _pairs(texts: list[str]) -> dict[str, str]:
    from motivnet.errors import ConfigError

    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value or name in pairs:
            raise ConfigError(f"--weights {text!r}. Allowed: VARIANT=FILE, each variant once")
        pairs[name] = value
    return pairs

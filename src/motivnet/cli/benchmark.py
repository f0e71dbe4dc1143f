"""`motivnet benchmark`: many models on many data sets in one run."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from motivnet.cli.console import echo, track
from motivnet.cli.options import MODEL_HELP, Fields, Overwrite, flag, option
from motivnet.errors import needs_extra
from motivnet.experiments.protocols import BenchmarkSettings, parse_trained_on
from motivnet.inference.predictor_config import PredictorConfig


def benchmark(
    model: Annotated[list[str], typer.Option(help=f"{MODEL_HELP} Repeatable.")],
    data: Annotated[list[str], option("[NAME=]KIND:PATH[@SPLIT]")],
    out: Annotated[Path, option("DIR")],
    detect: Annotated[list[str] | None, option("NAME")] = None,
    trained_on: Annotated[list[str] | None, option("MODEL=NAME,...")] = None,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, flag("--json")] = False,
    *,
    settings: BenchmarkSettings,
    config: Annotated[PredictorConfig, Fields(only=("batch_size", "device"))],
) -> None:
    """Score models on data sets, beside published results (needs the extra `evaluate`).

    Exit code 1: something was skipped; the tables say what and why.

    Example: motivnet benchmark --model nano --data fer2013:fer2013.parquet@PrivateTest --out benchmark

    Options:
        data: Labelled images: fer2013:FILE@PrivateTest, FERPlus=manifest:FILE; the name finds results; repeatable.
        out: Folder of benchmark.md, .html and .json, and of predictions/, which are reused.
        detect: Detect faces in this data set of photographs; all: in every one. Otherwise the face is the data set's
            box, and without one the whole image; repeatable.
        trained_on: Data sets that a model was trained on, such as MotivNet.pth=AffectNet, where its bundle does not say
            so; MODEL=none for none; repeatable.
        as_json: Print the contents of benchmark.json.
    """
    settings = dataclasses.replace(settings, detect=detect or (), trained_on=parse_trained_on(trained_on or ()))
    with needs_extra("pyarrow", "evaluate"):
        import matplotlib  # noqa: F401 - an error now rather than after the work
        import scipy  # noqa: F401

        from motivnet.experiments.benchmark import run_benchmark
        from motivnet.report.benchmark_report import FILES, headlines
        from motivnet.report.page import to_json

    found = run_benchmark(
        model,
        data,
        out,
        settings,
        config=config,
        overwrite=overwrite,
        say=lambda line: echo(line, err=True),
        track=track,
    )
    echo(to_json(found.to_dict()) if as_json else headlines(found), nl=not as_json)
    echo(f"written to {out}: {', '.join(FILES)}", err=True)
    if found.skipped:
        raise typer.Exit(1)

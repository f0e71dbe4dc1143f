"""`motivnet benchmark`: many models on many data sets in one run."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from motivnet.cli.options import Device
from motivnet.inference.tables import check_folder, open_folder

if TYPE_CHECKING:
    from motivnet.evaluation.evaluate import Track
    from motivnet.experiments.benchmark import Benchmark

# The data come last: where they are, all is.
FILES = ("benchmark.md", "benchmark.html", "benchmark.json")


def benchmark(
    model: Annotated[
        list[str],
        typer.Option(
            show_default=False,
            help="Embedded model, folder of a bundle, released file, or name of `motivnet weights`. May be repeated.",
        ),
    ],
    data: Annotated[
        list[str],
        typer.Option(
            metavar="[NAME=]KIND:PATH[@SPLIT]",
            show_default=False,
            help="Labelled images, such as fer2013:fer2013.parquet@PrivateTest or 'FERPlus=manifest:ferplus.parquet'; "
            "the name finds what others have published. May be repeated.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            show_default=False,
            help=f"Folder for {', '.join(FILES)}, and predictions/, which are used again.",
        ),
    ],
    detect: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Look for faces in this data set, whose images are photographs; all: in every one. Otherwise the face "
            "is the data set's box, and without one the whole image. May be repeated.",
        ),
    ] = None,
    trained_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL=NAME,...",
            help="Data sets that a model was trained on, such as MotivNet.pth=AffectNet, where it does not say so "
            "itself; MODEL=none for none. May be repeated.",
        ),
    ] = None,
    restrict_probs: Annotated[
        Literal["keep", "renormalise"],
        typer.Option(
            help="Labels that a data set has no image of: keep them as possible answers, which are errors; or strike "
            "them out and renormalise the other probabilities.",
        ),
    ] = "keep",
    folds: Annotated[
        int, typer.Option(min=0, help="Folds by subject where there are subjects; 0: leave one subject out.")
    ] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of the resamples that give the intervals.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that DIR holds already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what benchmark.json holds.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Most faces that go through a model at once.")] = 64,
    device: Device = "auto",
) -> None:
    """Score models on data sets, beside what others have published (needs the extra `evaluate`).

    Exit code 1: something was skipped; the tables say what and why.
    """
    from motivnet.cli.extras import needs_extra
    from motivnet.errors import ConfigError

    if folds == 1:
        raise ConfigError("--folds 1. Allowed: 0, or at least 2")
    stated = dict(map(_parse_trained_on, trained_on or []))
    check_folder(out, FILES, overwrite=overwrite)
    with needs_extra("pyarrow", "evaluate"):
        import matplotlib  # noqa: F401 - missed now rather than after the work
        import scipy  # noqa: F401

        from motivnet.experiments.benchmark import Options, run_benchmark
        from motivnet.report.benchmark_report import benchmark_files

    from motivnet.inference.predictor import Predictor

    options = Options(
        trained_on=stated, detect=tuple(detect or ()), restrict=restrict_probs, num_folds=folds, seed=seed
    )
    found = run_benchmark(
        model,
        data,
        out,
        options,
        load=functools.partial(
            Predictor.load,
            detector="libfacedetection" if detect else "whole",
            batch_size=batch_size,
            device=device,
        ),
        say=lambda line: typer.echo(line, err=True),
        track=_track,
    )
    files = benchmark_files(found)
    with open_folder(out, FILES, overwrite=overwrite) as folder:
        for name in FILES:
            (folder / name).write_text(files[name], encoding="utf-8")
    typer.echo(files["benchmark.json"] if as_json else _headlines(found), nl=not as_json)
    typer.echo(f"written to {out}: {', '.join(FILES)}", err=True)
    if found.skipped:
        raise typer.Exit(1)


def _parse_trained_on(text: str) -> tuple[str, tuple[str, ...]]:
    from motivnet.errors import ConfigError

    model, equals, names = text.rpartition("=")
    found = tuple(name.strip() for name in names.split(",") if name.strip())
    if not equals or not model or not found:
        raise ConfigError(f"--trained-on {text!r}. Allowed: MODEL=NAME or MODEL=NAME,NAME; MODEL=none")
    return model, () if found == ("none",) else found


def _track(title: str, total: int) -> "Track":
    from motivnet.cli.progress import track

    return functools.partial(track, total=total, what=title)


def _headlines(found: "Benchmark") -> str:
    from motivnet.report.benchmark_report import HEADS
    from motivnet.report.page import percent

    rows = [("data set", "model", "setting", *HEADS.values())]
    rows += [
        (cell.data, cell.model, str(cell.setting), *(percent(cell.scores[name]) for name in HEADS))
        for cell in found.cells
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)

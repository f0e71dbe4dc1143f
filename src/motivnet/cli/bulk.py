"""`motivnet bulk`: the emotions of the faces in any number of photographs, in a job that can be killed and goes on."""

import contextlib
import datetime
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from motivnet.cli.extras import needs_extra
from motivnet.cli.options import AbstainBelow, BatchSize, Detector, Dtype, Geometry, Model, NumHeads, Size
from motivnet.inference.predictor_config import parse_size, parse_threshold

if TYPE_CHECKING:
    from motivnet.bulk.job import Progress, Summary

# Where nobody watches, a log does.
LOG_EVERY_S = 30.0


def bulk(
    src: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            show_default=False,
            help="Folder of photographs, .txt or .csv list, Parquet file with bytes or paths, or a URL of one of these "
            "(s3, gs, http, ...).",
        ),
    ],
    dst: Annotated[
        str,
        typer.Argument(
            metavar="DST", show_default=False, help="Folder of the Parquet files, new or of the same run; or its URL."
        ),
    ],
    model: Model = "nano",
    detector: Detector = "libfacedetection",
    engine: Annotated[str, typer.Option(help="local: one process; ray: as many as there is room for.")] = "local",
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT|auto", help="Ray cluster; without it, engine ray stays on this machine."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes of engine ray, each with the model.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of a process: all cores, or 1 with engine ray.")
    ] = None,
    part_size: Annotated[int, typer.Option(min=1, help="Inputs per file; what a killed worker does again.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    abstain_below: AbstainBelow = None,
    batch_size: BatchSize = 64,
    device: Annotated[
        str, typer.Option(help="Of models in torch: auto, cpu, cuda, cuda:N or mps; cuda gives each worker of ray one.")
    ] = "auto",
    dtype: Dtype = "auto",
    size: Size = None,
    geometry: Geometry = None,
    num_heads: NumHeads = None,
) -> None:
    """Tell the emotion of every face in any number of photographs, into a folder of Parquet files.

    The same command goes on where a killed one stopped.

    Exit codes: 0 every input was read, with faces or without; 1 some input could not be read, or broke the model;
    2 a mistake in the command, such as a path, model or detector that does not exist, or a DST that holds another run.
    """
    threshold = parse_threshold(abstain_below) if abstain_below is not None else None
    with needs_extra("pyarrow", "scale"):
        from motivnet.bulk.job import run_bulk
        from motivnet.bulk.parts import BulkSettings

    settings = BulkSettings(
        model=model,
        detector=detector,
        part_size=part_size,
        batch_size=batch_size,
        abstain_below=threshold,
        device=device,
        dtype=dtype,
        image_size=parse_size(size) if size else None,
        geometry=geometry,
        num_heads=num_heads,
        threads=threads,
    )
    # Ray prints what befalls its processes; results alone belong on stdout.
    with contextlib.redirect_stdout(sys.stderr), _shown() as show:
        summary = run_bulk(src, dst, settings, engine=engine, address=address, num_workers=workers, on_progress=show)
    if as_json:
        print(json.dumps(summary.to_dict()))
    typer.echo(_sum_up(summary, dst), err=True)
    if summary.failures:
        raise typer.Exit(1)


@contextlib.contextmanager
def _shown() -> "Iterator[Callable[[Progress], None]]":
    """Show a bar on stderr; where that is no terminal, a line now and then."""
    if sys.stderr.isatty():
        with _bar() as show:
            yield show
        return
    next_s = time.monotonic() + LOG_EVERY_S

    def log(progress: "Progress") -> None:
        nonlocal next_s
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + LOG_EVERY_S
            done = progress.held + progress.done
            typer.echo(f"{done:,} of {progress.inputs:,} inputs, {pace(progress)}", err=True)

    yield log


@contextlib.contextmanager
def _bar() -> "Iterator[Callable[[Progress], None]]":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("inputs"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, pace="")

        def show(progress: "Progress") -> None:
            done = progress.held + progress.done
            bar.update(task, total=progress.inputs, completed=done, pace=pace(progress))

        yield show


def pace(progress: "Progress") -> str:
    """Say how fast a run goes, and how long it will go on."""
    if progress.images_per_s is None or progress.seconds_left is None:
        return ""
    left = datetime.timedelta(seconds=round(progress.seconds_left))
    return f"{progress.images_per_s:,.1f} images/s, {left} left"


def _sum_up(summary: "Summary", dst: str) -> str:
    others = [f"{number:,} {status.replace('_', ' ')}" for status, number in summary.statuses.items() if status != "ok"]
    rate = f"{summary.images_per_s:,.1f} images/s" if summary.images_per_s else "nothing was left to do"
    return "; ".join([f"{summary.faces:,} faces in {summary.inputs:,} inputs", *others, rate, f"written to {dst}"])

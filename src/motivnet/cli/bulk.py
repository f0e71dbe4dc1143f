"""`motivnet bulk`: emotions of the faces in any number of photographs, in a job that resumes after it was killed."""

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motivnet.cli.console import echo, open_bar
from motivnet.cli.options import Fields, Model, argument, flag, option
from motivnet.config import to_json
from motivnet.errors import needs_extra
from motivnet.image_files import describe_skipped
from motivnet.inference.predictor_config import DEVICE_HELP, PredictorConfig

if TYPE_CHECKING:
    from motivnet.bulk.job import Progress, Summary

# Without a terminal.
LOG_EVERY_S = 30.0
# The workers of this verb are processes, and it has no choice of backends.
_OPTIONS = Fields(
    leave_out=("workers", "backend"),
    change={
        "device": {"help": f"{DEVICE_HELP} With cuda, each worker of ray has one GPU."},
        "threads": {"help": "CPU threads of a process.", "show_default": "one per core; 1 with engine ray"},
    },
)


def bulk(
    src: Annotated[str, argument("SRC")],
    dst: Annotated[str, argument("DST")],
    model: Model = "nano",
    engine: str = "local",
    address: Annotated[str | None, option("HOST:PORT|auto")] = None,
    workers: Annotated[int | None, typer.Option(min=1)] = None,
    part_size: Annotated[int, typer.Option(min=1)] = 1000,
    image_column: Annotated[str | None, option("NAME")] = None,
    as_json: Annotated[bool, flag("--json")] = False,
    *,
    predictor: Annotated[PredictorConfig, _OPTIONS],
) -> None:
    """Recognise the emotion of every face in any number of photographs, into a folder of Parquet files.

    The same command resumes a run that was killed.

    Exit codes: 0 every input was read, with faces or without; 1 some input could not be read, or crashed the model;
    2 a mistake in the command, such as a path, model or detector that does not exist, or a DST that holds another run.

    Example: motivnet bulk photographs/ labels/

    Options:
        src: Folder of photographs, .txt or .csv list, Parquet file with bytes or paths, or a URL of one of these (s3,
            gs, http, ...).
        dst: Folder of the Parquet files, new or of the same run; or its URL.
        engine: local: one process; ray: as many as there is room for.
        address: Ray cluster; without it, engine ray stays on this machine.
        workers: Processes of engine ray, each with the model.
        part_size: Inputs per file; a killed worker's part is repeated.
        image_column: Of images in Parquet.
        as_json: Print the summary as JSON.
    """
    with needs_extra("pyarrow", "scale"):
        from motivnet.bulk.job import run_bulk

    # Ray prints messages about its processes; only results belong on stdout.
    with contextlib.redirect_stdout(sys.stderr), _progress() as show:
        cluster: dict[str, Any] = {"engine": engine, "address": address, "num_workers": workers}
        cluster |= {"part_size": part_size, "image_column": image_column}
        summary = run_bulk(src, dst, model=model, config=predictor, progress=show, **cluster)
    if as_json:
        echo(to_json(summary.to_dict()))
    echo(_describe(summary, dst), err=True)
    if summary.failures:
        raise typer.Exit(1)


@contextlib.contextmanager
def _progress() -> "Iterator[Callable[[Progress], None]]":
    """Show a progress bar on stderr; if that is not a terminal, a line every `LOG_EVERY_S`."""
    next_s = time.monotonic() + LOG_EVERY_S
    with open_bar() as show:

        def update(now: "Progress") -> None:
            nonlocal next_s
            if show:
                show("inputs", now.held + now.done, now.inputs)
            elif time.monotonic() >= next_s:
                next_s = time.monotonic() + LOG_EVERY_S
                echo(f"{now.held + now.done:,} of {now.inputs:,} inputs, {pace(now)}", err=True)

        yield update


def pace(progress: "Progress") -> str:
    """Format the rate of a run and its estimated time to the end."""
    if progress.images_per_s is None or progress.seconds_left is None:
        return ""
    left = datetime.timedelta(seconds=round(progress.seconds_left))
    return f"{progress.images_per_s:,.1f} images/s, {left} left"


def _describe(summary: "Summary", dst: str) -> str:
    others = [f"{number:,} {status.replace('_', ' ')}" for status, number in summary.statuses.items() if status != "ok"]
    rate = f"{summary.images_per_s:,.1f} images/s" if summary.images_per_s else "nothing was left to do"
    skipped = filter(None, [describe_skipped(summary.skipped)])
    return "; ".join(
        [f"{summary.faces:,} faces in {summary.inputs:,} inputs", *others, *skipped, rate, f"written to {dst}"]
    )

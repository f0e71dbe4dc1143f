"""`motivnet predict`: recognise the emotions of the faces in photographs."""

import collections
import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from motivnet.cli.inputs import file_name, find_inputs, open_inputs
from motivnet.cli.options import Fields, Model, Overwrite, derive_options
from motivnet.cli.progress import track
from motivnet.errors import ConfigError
from motivnet.inference.annotate import plan_targets, write_annotated
from motivnet.inference.draw import COLORS
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.inference.rows import Row, all_columns, printable, to_rows
from motivnet.inference.tables import check_output, open_table
from motivnet.labels import AFFECT
from motivnet.video.video_config import is_video

if TYPE_CHECKING:
    from rich.table import Table

    from motivnet.inference.results import ImageResult

EPILOG = (
    "Exit codes: 0 every image was read, with faces or without; 1 some image could not be read; 2 a mistake in the "
    "command, such as a path, model or detector that does not exist, or an output that exists already."
)

# Rich assumes 80 columns where there is no terminal, and would break file names.
PIPE_COLUMNS = 160


@derive_options
def predict(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            show_default=False,
            help="Photographs, folders of them, patterns such as 'pics/**/*.jpg', URLs, videos, camera:0, "
            "or - for the bytes of a photograph on standard input.",
        ),
    ],
    model: Model = "nano",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per image and line.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write one row per face to a .jsonl, .csv or .parquet file; no table then.")
    ] = None,
    annotate: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the photographs with faces and emotions drawn on them.")
    ] = None,
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.001, help="Videos: time from one frame to the next.")
    ] = 1.0,
    top_k: Annotated[int, typer.Option(min=1, help="Emotions per face in the table.")] = 3,
    overwrite: Overwrite = False,
    *,
    predictor: Annotated[PredictorConfig, Fields(leave_out=("backend", "threads"))],
) -> None:
    """Recognise the emotion of every face in photographs."""
    inputs = find_inputs(paths)
    videos = [found for found in inputs if isinstance(found, Path) and is_video(found)]
    if out:
        check_output(out, overwrite=overwrite)
    if annotate and videos:
        raise ConfigError(f"{videos[0]}: --annotate draws on photographs; `motivnet video` draws on videos")
    targets = plan_targets([*map(file_name, inputs)], annotate, overwrite=overwrite) if annotate else []

    from motivnet.inference.predictor import Predictor

    loaded = Predictor.load(model, predictor)
    affect = loaded.config.model.affect
    table = None if as_json or out else _table(top_k, affect=affect)
    with contextlib.ExitStack() as stack:
        sinks: list[Callable[[ImageResult], None]] = []
        if as_json:
            sinks.append(_print_json)
        if out:
            columns = all_columns(loaded.config.labels.names)
            write_row = stack.enter_context(open_table(out, columns, overwrite=overwrite))
            sinks.append(functools.partial(_write_rows, write_row))
        if table:
            sinks.append(functools.partial(_add_rows, table, top_k))
        if targets:
            sinks.append(functools.partial(_annotate_next, iter(targets)))
        results = loaded.stream(open_inputs(inputs, every), keep_images=bool(targets))
        # The number of frames of a video is not known in advance.
        quiet = as_json and sys.stdout.isatty()
        shown = results if quiet else track(results, total=None if videos else len(inputs), what="photographs")
        counts = _send(shown, sinks)
    if table:
        _print_table(table)
    _say_summary(counts, [place for place in (out, annotate) if place])
    if counts["unreadable"]:
        raise typer.Exit(1)


def _send(results: "Iterable[ImageResult]", sinks: "list[Callable[[ImageResult], None]]") -> "collections.Counter[str]":
    """Pass every result to every sink; count images, faces and statuses."""
    counts: collections.Counter[str] = collections.Counter()
    for result in results:
        abstained = sum(face.abstained for face in result.faces)
        counts.update(images=1, faces=len(result.faces), abstained=abstained, **{result.status: 1})
        for sink in sinks:
            sink(result)
    return counts


def _print_json(result: "ImageResult") -> None:
    # ASCII escapes reach any terminal, whatever its encoding.
    print(json.dumps(result.to_dict()), flush=True)


def _write_rows(write_row: "Callable[[Row], None]", result: "ImageResult") -> None:
    for row in to_rows(result):
        write_row(row)


def _annotate_next(targets: Iterator[Path], result: "ImageResult") -> None:
    target = next(targets)
    if result.status != "unreadable":
        write_annotated(result.picture(), result.faces, target)


def _table(top_k: int, *, affect: bool) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("image", overflow="fold")
    table.add_column("emotion", no_wrap=True)
    table.add_column("prob", justify="right", no_wrap=True)
    if top_k > 1:
        table.add_column("then", overflow="fold")
    for name in AFFECT if affect else ():
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("face at x, y", justify="right", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("face score", justify="right", no_wrap=True)
    return table


def _add_rows(table: "Table", top_k: int, result: "ImageResult") -> None:
    from rich.text import Text

    source = Text(printable(result.source))
    if result.status == "unreadable":
        table.add_row(source.append(f"\n  {result.error}", style="red"), Text("unreadable", style="red"))
    elif not result.faces:
        table.add_row(source, Text("no face", style="dim"))
    for face in result.faces:
        (emotion, prob), *others = face.top(top_k)
        then = [Text(", ".join(f"{name} {value:.0%}" for name, value in others))] if top_k > 1 else []
        affect = [f"{value:+.2f}" for value in (face.valence, face.arousal) if value is not None]
        tiny = " (tiny)" if face.tiny else ""
        table.add_row(
            source,
            Text(f"{emotion}?", "dim") if face.abstained else Text(emotion, f"bold {COLORS.get(emotion, '')}"),
            f"{prob:.0%}",
            *then,
            *affect,
            f"{face.box.x:.0f}, {face.box.y:.0f}",
            f"{face.box.width:.0f} x {face.box.height:.0f}{tiny}",
            f"{face.face_score:.2f}",
        )


def _print_table(table: "Table") -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)


def _say_summary(counts: "collections.Counter[str]", places: list[Path]) -> None:
    parts = [
        f"{_plural(counts['faces'], 'face')} in {_plural(counts['images'], 'image')}",
        f"abstained from {counts['abstained']}, marked '?'" if counts["abstained"] else "",
        f"{counts['no_face']} without a face" if counts["no_face"] else "",
        f"{counts['unreadable']} unreadable" if counts["unreadable"] else "",
        f"written to {' and '.join(map(str, places))}" if places else "",
    ]
    typer.echo("; ".join(part for part in parts if part), err=True)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"

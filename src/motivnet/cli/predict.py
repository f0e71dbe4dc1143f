"""`motivnet predict`: recognise the emotions of the faces in photographs."""

import collections
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from motivnet.cli.console import echo, make_table, print_tables, track
from motivnet.cli.inputs import file_name, find_inputs, is_video_file, open_inputs
from motivnet.cli.options import Excel, Fields, Model, Overwrite, argument, flag, option
from motivnet.config import to_json
from motivnet.errors import ConfigError, for_terminal, one_line
from motivnet.image_files import describe_skipped
from motivnet.inference.draw import COLORS, plan_targets, write_annotated
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.inference.rows import counts_of, marked, summarise, to_rows
from motivnet.inference.tables import check_output, open_table
from motivnet.labels import AFFECT

if TYPE_CHECKING:
    from rich.table import Table

    from motivnet.inference.results import ImageResult

EPILOG = (
    "Exit codes: 0 every image was read, with faces or without; 1 some image could not be read; 2 a mistake in the "
    "command, such as a path, model or detector that does not exist, or an output that exists already."
)
# In place of a table.
NOWHERE = contextlib.nullcontext(lambda row: None)


def predict(
    paths: Annotated[list[str], argument("INPUT")],
    model: Model = "nano",
    as_json: Annotated[bool, flag("--json")] = False,
    out: Path | None = None,
    annotate: Annotated[Path | None, option("DIR")] = None,
    every: Annotated[float, option("SECONDS", min=0.001)] = 1.0,
    top_k: Annotated[int, typer.Option(min=1)] = 3,
    excel: Excel = False,
    overwrite: Overwrite = False,
    *,
    predictor: Annotated[PredictorConfig, Fields(leave_out=("backend", "threads"))],
) -> None:
    """Recognise the emotion of every face in photographs.

    Example: motivnet predict family.jpg holiday/ --out faces.csv

    Options:
        paths: Photographs, folders of them, patterns such as 'pics/**/*.jpg', URLs, videos, camera:0, or - for the
            bytes of a photograph on standard input.
        as_json: Print one JSON object per image and line.
        out: Write one row per face to a .jsonl, .csv or .parquet file; no table then.
        annotate: Write the photographs with faces and emotions drawn on them.
        every: Videos: time between frames.
        top_k: Emotions per face in the table.
    """
    inputs, skipped = find_inputs(paths)
    videos = list(filter(is_video_file, inputs))
    if out:
        check_output(out, overwrite=overwrite)
    if annotate and videos:
        raise ConfigError(f"{videos[0]}: --annotate draws on photographs; `motivnet video` draws on videos")
    targets = plan_targets([*map(file_name, inputs)], annotate, overwrite=overwrite) if annotate else []

    from motivnet.inference.predictor import Predictor
    from motivnet.machine import prepare_for_images

    prepare_for_images()
    loaded = Predictor.load(model, predictor)
    table = None if as_json or out else _table(top_k, affect=loaded.config.model.affect)
    counts: collections.Counter[str] = collections.Counter()
    results = loaded.stream(open_inputs(inputs, every), keep_images=bool(targets))
    if not (as_json and sys.stdout.isatty()):
        # The number of frames of a video is not known in advance.
        results = track(results, total=None if videos else len(inputs), what="photographs")
    table_file = open_table(out, loaded.columns, overwrite=overwrite, excel=excel) if out else NOWHERE
    with table_file as write_row:
        for position, result in enumerate(results):
            counts.update(counts_of(result))
            if as_json:
                # ASCII escapes reach any terminal, whatever its encoding.
                print(to_json(result.to_dict()), flush=True)
            for row in to_rows(result):
                write_row(row)
            if table:
                _add_rows(table, top_k, result)
            if targets and result.status != "unreadable":
                write_annotated(result.picture(), result.faces, targets[position])
    if table:
        print_tables(table)
    places = " and ".join(map(str, filter(None, (out, annotate))))
    written = f"written to {places}" if places else ""
    echo("; ".join(filter(None, (summarise(counts), describe_skipped(skipped), written))), err=True)
    raise typer.Exit(1 if counts["unreadable"] else 0)


def _table(top_k: int, *, affect: bool) -> "Table":
    numbers = ["prob", *(AFFECT if affect else ()), "face at x, y", "size", "face score"]
    titles = ["image", "emotion", "prob", *(["then"] if top_k > 1 else []), *numbers[1:]]
    return make_table(titles, right=numbers, no_wrap=["emotion", *numbers])


def _add_rows(table: "Table", top_k: int, result: "ImageResult") -> None:
    from rich.text import Text

    source = Text(for_terminal(result.source))
    if result.status == "unreadable":
        table.add_row(source.append(f"\n  {one_line(result.error)}", style="red"), Text("unreadable", style="red"))
    elif not result.faces:
        table.add_row(source, Text("no face", style="dim"))
    for face in result.faces:
        (emotion, prob), *others = face.top(top_k)
        then = [Text(", ".join(f"{name} {value:.0%}" for name, value in others))] if top_k > 1 else []
        affect = [f"{value:+.2f}" for value in (face.valence, face.arousal) if value is not None]
        tiny = " (tiny)" if face.tiny else ""
        table.add_row(
            source,
            Text(marked(face), "dim" if face.abstained else f"bold {COLORS.get(emotion, '')}"),
            f"{prob:.0%}",
            *then,
            *affect,
            f"{face.box.x:.0f}, {face.box.y:.0f}",
            f"{face.box.width:.0f} x {face.box.height:.0f}{tiny}",
            f"{face.face_score:.2f}",
        )

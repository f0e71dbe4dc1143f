"""`motivnet video`: the emotions of the faces in videos, frame by frame."""

import collections
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motivnet.cli.console import echo, open_bar
from motivnet.cli.inputs import find_videos
from motivnet.cli.options import DETECTION, Excel, Fields, Model, Overwrite, argument, flag, option
from motivnet.errors import one_line
from motivnet.frames.selection import Selection
from motivnet.image_files import Skipped, describe_skipped
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.machine import keep_freed_memory
from motivnet.video.video_config import FollowConfig, TablesConfig

if TYPE_CHECKING:
    from motivnet.video.label import LabelledVideo

EPILOG = (
    "Exit codes: 0 every video was read; 1 some video could not be read; 2 a mistake in the command, such as a path, "
    "model or detector that does not exist, or an output that exists already; 130 stopped with Ctrl-C, to be continued "
    "with --resume."
)
PREDICTOR_FIELDS = (
    *(*DETECTION, "landmarks", "batch_size", "workers", "precision", "device"),
    *("dtype", "image_size", "geometry", "num_heads"),
)


def video(
    *,
    paths: Annotated[list[str], argument("FILE")],
    out: Path,
    annotate: Annotated[Path | None, option("OUT.mp4")] = None,
    timeline: Annotated[Path | None, option("OUT.png")] = None,
    report: Annotated[Path | None, option("OUT.html")] = None,
    selection: Selection,
    follow: FollowConfig,
    tables: TablesConfig,
    resume: Annotated[bool, flag("--resume")] = False,
    model: Model = "nano",
    excel: Excel = False,
    overwrite: Overwrite = False,
    predictor: Annotated[PredictorConfig, Fields(only=PREDICTOR_FIELDS)],
) -> None:
    """Recognise the emotion of every face in videos, frame by frame (needs the extra `video`).

    Example: motivnet video interview.mp4 --out rows.parquet --report page.html

    Options:
        paths: Videos, folders, or patterns such as 'takes/*.mp4'.
        out: Write one row per face and frame to a .parquet, .csv or .jsonl file.
        annotate: Write the video with faces and emotions drawn; of several: a folder.
        timeline: Plot the emotions over time; of several videos: a folder.
        report: Write a page with tracks, timeline and faces; of several: a folder.
        resume: Continue an interrupted run of the same command.
    """
    from motivnet.video.label import label_video

    keep_freed_memory()
    skipped: Skipped = collections.Counter()
    videos = [path for pattern in paths for path in find_videos(pattern, skipped)]
    files = {"annotate": annotate, "timeline": timeline, "report": report}
    options: dict[str, Any] = {"selection": selection, "follow": follow, "resume": resume, "overwrite": overwrite}
    options |= {"excel": excel, "tables": tables}
    try:
        with open_bar() as show:
            labelled = label_video(videos, out, model=model, config=predictor, progress=show, **files, **options)
    except KeyboardInterrupt:
        echo("stopped; the same command with --resume continues", err=True)
        raise typer.Exit(130) from None
    _print_summary(labelled, out, tables.outputs.values())
    if skipped:
        echo(describe_skipped(skipped), err=True)
    if any(video.error for video in labelled):
        raise typer.Exit(1)


def _print_summary(videos: "list[LabelledVideo]", out: Path, tables: Iterable[Path]) -> None:
    for video in videos:
        skipped = f"{video.corrupt} corrupt frame{'' if video.corrupt == 1 else 's'} skipped" if video.corrupt else ""
        if video.error:
            echo(f"motivnet: {one_line(video.error)}", err=True)
        elif said := "; ".join(filter(None, (*video.notes, skipped, video.damage))):
            echo(f"{video.path}: {said}", err=True)
    summaries = [video.summary for video in videos if video.summary]
    if not summaries:
        return
    faces, tracks = sum(each.faces for each in summaries), sum(len(each.tracks) for each in summaries)
    frames, empty = sum(each.frames for each in summaries), sum(each.empty for each in summaries)
    short = sum(track.short for each in summaries for track in each.tracks)
    marked = f" ({short:,} of them short)" if short else ""
    parts = [
        f"{faces:,} faces of {tracks:,} track{'' if tracks == 1 else 's'}{marked} in {frames:,} frames",
        f"{empty:,} without a face" if empty else "",
        f"{len(videos) - len(summaries)} of the videos could not be read" if len(summaries) < len(videos) else "",
        f"written to {', '.join(map(str, (out, *(path for video in videos for path in video.files), *tables)))}",
    ]
    echo("; ".join(filter(None, parts)), err=True)

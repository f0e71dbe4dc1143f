"""`motivnet video`: the emotions of the faces in videos, frame by frame."""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motivnet.cli.options import BatchSize, Detector, Device, Dtype, Geometry, Model, NumHeads, Overwrite, Size
from motivnet.inference.predictor_config import parse_size
from motivnet.inference.tables import check_output

if TYPE_CHECKING:
    from motivnet.video.checkpoints import Parts, State
    from motivnet.video.label import Job
    from motivnet.video.summary import Summary
    from motivnet.video.targets import Targets

EPILOG = (
    "Exit codes: 0 every video was read; 1 some video could not be read; 2 a mistake in the command, such as a path, "
    "model or detector that does not exist, or an output that exists already; 130 stopped with Ctrl-C, to be continued "
    "with --resume."
)
# Of <malloc.h>: M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, in bytes.
M_SIZES = {-3: 32 << 20, -1: 256 << 20}


def video(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="FILE", show_default=False, help="Videos, or patterns such as 'takes/*.mp4'."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            show_default=False,
            help="Write one row per face and frame to a .parquet, .csv or .jsonl file; of several videos with a "
            "column `source`.",
        ),
    ],
    annotate: Annotated[
        Path | None,
        typer.Option(metavar="OUT.mp4", help="Write the video with faces and emotions drawn; of several: a folder."),
    ] = None,
    timeline: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="Plot the emotions over time; of several videos: a folder.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="OUT.html", help="Write a page with tracks, timeline and faces; of several: a folder."),
    ] = None,
    stride: Annotated[int, typer.Option(min=1, help="Look at each so-many-th frame only.")] = 1,
    fps: Annotated[float | None, typer.Option(help="Look at so many frames per second at most.")] = None,
    start: Annotated[float, typer.Option(metavar="SECONDS", help="Begin there.")] = 0.0,
    end: Annotated[float | None, typer.Option(metavar="SECONDS", help="End before that time.")] = None,
    detect_every: Annotated[
        int, typer.Option(min=1, help="Look for faces in each so-many-th frame; they stay where they are in between.")
    ] = 1,
    smooth: Annotated[
        float, typer.Option(metavar="SECONDS", help="Smooth each face's probabilities with this time constant.")
    ] = 0.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a run of the same command was killed or stopped.")
    ] = False,
    checkpoint_every: Annotated[
        int, typer.Option(min=1, help="Frames between the points at which a killed run can go on.")
    ] = 256,
    model: Model = "nano",
    detector: Detector = "libfacedetection",
    overwrite: Overwrite = False,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    dtype: Dtype = "auto",
    size: Size = None,
    geometry: Geometry = None,
    num_heads: NumHeads = None,
) -> None:
    """Tell the emotions of every face in videos, frame by frame (needs the extra `video`)."""
    from motivnet.cli.extras import needs_extra
    from motivnet.video.checkpoints import Parts, open_parts, parts_folder
    from motivnet.video.targets import find_videos, need_av, plan_targets

    files = find_videos(paths)
    # A run that was killed while its results took their names may have left some of them.
    again = overwrite or (resume and Parts(parts_folder(out)).publishing)
    check_output(out, overwrite=again)
    wanted = {"annotate": annotate, "timeline": timeline, "report": report}
    targets = plan_targets(files, out, wanted, overwrite=again)
    need_av()
    from motivnet.inference.predictor import Predictor
    from motivnet.video.follow import FollowConfig
    from motivnet.video.label import Job
    from motivnet.video.reader import Selection

    if timeline or report:
        with needs_extra("matplotlib", "video"):
            import jinja2  # noqa: F401
            import matplotlib  # noqa: F401
    selection = Selection(stride=stride, fps=fps, start_s=start, end_s=end)
    follow = FollowConfig(
        detect_every=detect_every,
        smooth_s=smooth,
        keep_images=annotate is not None,
        checkpoint_every=-(-checkpoint_every // detect_every) * detect_every,
    )
    settings: dict[str, Any] = {"batch_size": batch_size, "device": device, "dtype": dtype, "geometry": geometry}
    settings["num_heads"] = num_heads
    keep_memory()
    image_size = parse_size(size) if size else None
    predictor = Predictor.load(model, detector=detector, image_size=image_size, **settings)
    job = Job(predictor=predictor, selection=selection, follow=follow, annotate=annotate is not None)
    plan = _plan(files, model, detector, job) | settings | {"size": size}
    with open_parts(out, plan, resume=resume, overwrite=overwrite) as parts:
        try:
            states = _work(job, files, parts)
            _publish(job, files, states, parts, out, targets, again)
        except KeyboardInterrupt:
            typer.echo("stopped; the same command with --resume goes on", err=True)
            raise typer.Exit(130) from None
    if any(state.error for state in states):
        raise typer.Exit(1)


def keep_memory() -> None:
    """Let the C library keep the large blocks that every frame takes and gives back.

    Otherwise they go back to the system each time, which has to clear them anew. A search for faces takes some 15 MB;
    the threshold is the greatest that glibc takes. Other C libraries have no such setting.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, size in M_SIZES.items():
            mallopt(option, size)


def _plan(files: Sequence[Path], model: str, detector: str, job: "Job") -> dict[str, Any]:
    """Say all that the results depend on."""
    from motivnet.checkpoints.fingerprint import model_fingerprint
    from motivnet.version import __version__

    described = [f"{path.absolute()} ({path.stat().st_size} bytes of {path.stat().st_mtime_ns})" for path in files]
    return {
        "motivnet": __version__,
        "video": ", ".join(described),
        "model": f"{job.predictor.config.name} {model_fingerprint(model)}",
        "detector": detector,
        "annotate": job.annotate,
        **dataclasses.asdict(job.selection),
        **{name: value for name, value in dataclasses.asdict(job.follow).items() if name != "keep_images"},
    }


def _work(job: "Job", files: Sequence[Path], parts: "Parts") -> "list[State]":
    """Go through the videos; one that cannot be read is said, and stops no other."""
    from motivnet.errors import ConfigError, ImageError
    from motivnet.video.checkpoints import State
    from motivnet.video.label import run_video

    states = []
    with _bar() as show:
        for number, path in enumerate(files):
            try:
                state = run_video(job, path, number, parts, functools.partial(show, number, path.name))
            except (ImageError, ConfigError) as error:
                if isinstance(error, ConfigError) and len(files) == 1:
                    raise
                state = State(finished=True, error=" ".join(str(error).split()))
                parts.save(number, state)
            if state.error:
                typer.echo(f"motivnet: {state.error}", err=True)
            states.append(state)
    return states


def _publish(
    job: "Job",
    files: Sequence[Path],
    states: "Sequence[State]",
    parts: "Parts",
    out: Path,
    targets: "Sequence[Targets]",
    overwrite: bool,
) -> None:
    """Give the results their names, the rows last, and throw the parts away."""
    from motivnet.video.label import read_rows
    from motivnet.video.outputs import write_rows, write_targets
    from motivnet.video.summary import summarise

    summaries: list[Summary] = []
    if all(state.error for state in states):
        parts.remove()
        return
    parts.begin_publishing()
    for number, (path, state, wanted) in enumerate(zip(files, states, targets, strict=True)):
        if not state.error:
            summaries.append(summarise(read_rows(parts.rows_file(number)), job.labels))
            write_targets(job, path, number, state, parts, wanted, summaries[-1])
            if state.corrupt or state.damage:
                typer.echo(_complaint(path, state), err=True)
    write_rows(job, list(files), parts, out, overwrite=overwrite)
    parts.remove()
    failed = sum(state.error is not None for state in states)
    places = [out, *(place for wanted in targets for place in dataclasses.astuple(wanted) if place)]
    typer.echo(_told(summaries, failed, places), err=True)


def _complaint(path: Path, state: "State") -> str:
    frames = f"{state.corrupt} corrupt frame{'' if state.corrupt == 1 else 's'} skipped" if state.corrupt else ""
    return f"{path}: {'; '.join(part for part in (frames, state.damage) if part)}"


def _told(summaries: "Sequence[Summary]", failed: int, places: Sequence[Path]) -> str:
    frames, faces = sum(each.frames for each in summaries), sum(each.faces for each in summaries)
    tracks, empty = sum(len(each.tracks) for each in summaries), sum(each.empty for each in summaries)
    parts = [
        f"{faces:,} faces of {tracks:,} track{'' if tracks == 1 else 's'} in {frames:,} frames",
        f"{empty:,} without a face" if empty else "",
        f"{failed} of the videos could not be read" if failed else "",
        f"written to {', '.join(map(str, places))}",
    ]
    return "; ".join(part for part in parts if part)


@contextlib.contextmanager
def _bar() -> Iterator[Any]:
    """Show a bar on stderr with the time that is left, if somebody is there to see it.

    Gives a function of (number and name of the video, frames done, frames in all or None).
    """
    if not sys.stderr.isatty():
        yield lambda number, name, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[int, Any] = {}

        def show(number: int, name: str, done: int, total: int | None) -> None:
            if number not in tasks:
                tasks[number] = bar.add_task(name, total=total, completed=done - 1, speed="")
            speed = bar.tasks[tasks[number]].speed
            told = f"{speed:.0f} frames/s" if speed else ""
            bar.update(tasks[number], completed=done, total=max(done, total) if total else None, speed=told)

        yield show

"""From the parts of finished videos to the files that were asked for; each is complete or not there."""

from pathlib import Path
from typing import TYPE_CHECKING

from motivnet.inference.rows import all_columns, printable
from motivnet.inference.tables import check_output, open_rows
from motivnet.video.checkpoints import Parts, State
from motivnet.video.label import Job, all_rows, read_rows
from motivnet.video.targets import Targets, write_whole

if TYPE_CHECKING:
    from motivnet.video.summary import Summary


def write_rows(job: Job, videos: list[Path], parts: Parts, out: Path, *, overwrite: bool) -> None:
    """Write the table of rows.

    Args:
        job: what was done.
        videos: what was read.
        parts: where the rows are.
        out: the file; its extension says the format.
        overwrite: whether an existing file is replaced.

    Raises:
        OutputError: if it exists, or cannot be written.
    """

    def write(unfinished: Path) -> None:
        unfinished.unlink(missing_ok=True)
        with open_rows(unfinished, all_columns(job.labels), suffix=out.suffix) as write_row:
            for row in all_rows(job, parts, videos):
                write_row(row)
        check_output(out, overwrite=overwrite)

    write_whole(out, write)


def write_targets(
    job: Job, video: Path, number: int, state: State, parts: Parts, wanted: Targets, summary: "Summary"
) -> None:
    """Write what was asked for of one video, beside its rows.

    Args:
        job: what was done.
        video: the file that was read.
        number: its place among the videos.
        state: its last.
        parts: where its rows and pieces are.
        wanted: which files.
        summary: of its rows.

    Raises:
        OutputError: if one cannot be written.
    """
    if wanted.annotate:
        from motivnet.video.writer import join_videos

        pieces = parts.pieces(state)
        write_whole(wanted.annotate, lambda path: join_videos(pieces, path))
    if not (wanted.timeline or wanted.report):
        return
    from motivnet.report.timeline import BINS, draw_timeline, shown_tracks, write_timeline
    from motivnet.video.summary import curves

    tracks = shown_tracks(summary)
    found = curves(read_rows(parts.rows_file(number)), summary, tracks, BINS)
    if wanted.timeline:
        figure = draw_timeline(summary, tracks, found, printable(video.name))
        write_whole(wanted.timeline, lambda path: write_timeline(figure, path))
    if wanted.report:
        from motivnet.report.video_report import grab_thumbnails, video_report

        figure = draw_timeline(summary, tracks, found, "")
        page = video_report(video, _facts(job, video, state, summary), summary, figure, grab_thumbnails(video, summary))
        data = page.encode()
        write_whole(wanted.report, lambda path: _write_bytes(path, data))


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _facts(job: Job, video: Path, state: State, summary: "Summary") -> dict[str, object]:
    from motivnet.video.reader import Video

    with Video(video) as opened:
        info = opened.info
    selection, follow, config = job.selection, job.follow, job.predictor.config
    chosen = "every frame" if selection.stride == 1 else f"one frame in {selection.stride}"
    if selection.fps is not None:
        chosen = f"at most {selection.fps:g} frames per second"
    searched = "each of these frames" if follow.detect_every == 1 else f"one of {follow.detect_every} of these frames"
    smoothed = f"with a time constant of {follow.smooth_s:g} s" if follow.smooth_s else "none"
    return {
        "file": printable(str(video)),
        "picture": f"{info.width} x {info.height} pixels, {info.codec}",
        "frame rate": f"{info.fps:.4g} per second on average" if info.fps else "not stated",
        "duration": f"{info.duration_s:.2f} s" if info.duration_s else "not stated",
        "looked at": f"{summary.frames:,} frames, {summary.start_s:.2f} to {summary.end_s:.2f} s ({chosen})",
        "without a face": f"{summary.empty:,} frames",
        "corrupt": f"{state.corrupt:,} frames skipped" + (f"; the file {state.damage}" if state.damage else ""),
        "model": f"{config.name}: {config.summary}",
        "licence of the weights": config.licence,
        "face detector": f"{job.predictor.detector.name}, in {searched}",
        "smoothing": smoothed,
    }

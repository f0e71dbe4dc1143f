"""Label videos: one row per face and frame, and what is made of the rows. A run that is interrupted can be resumed.

While it works, a run keeps what it has done in a hidden folder beside its output: for video number N the rows so far
(`N.jsonl`), and its state at the last checkpoint (`N.json`), which states how many of the rows count. Rows after it are
cut off, and computed again.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from motivnet import storage
from motivnet.checkpoints.bundle import model_fingerprint
from motivnet.config import to_json, to_plain
from motivnet.errors import ConfigError, ImageError, OutputError, needs_extra
from motivnet.frames.cuts import Picture
from motivnet.frames.reader import Position, Video
from motivnet.frames.selection import Selection
from motivnet.inference.predictor import Predictor
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.inference.rows import Row, printable
from motivnet.inference.tables import open_table
from motivnet.version import __version__
from motivnet.video.follow import follow
from motivnet.video.outputs import Progress, annotate_video, grab_thumbnails, plan_files
from motivnet.video.summary import Summary, curves, summarise
from motivnet.video.video_config import FollowConfig, TablesConfig

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
PLAN, PUBLISHING = "plan.json", "publishing"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LabelledVideo:
    """The result of one video.

    Args:
        path: of the video.
        error: why it could not be read; None if it could.
        corrupt: number of frames that could not be decoded, and were skipped.
        damage: what is wrong with the end of the file; None if nothing is.
        notes: what was special or wrong in the file, and what was done about it.
        summary: of its rows; None if it could not be read.
        files: that were written for this video alone.
        rows: one per face and frame, with all columns of the codebook; None if they were written to a file.
    """

    path: Path
    error: str | None = None
    corrupt: int = 0
    damage: str | None = None
    notes: tuple[str, ...] = ()
    summary: Summary | None = None
    files: tuple[Path, ...] = ()
    rows: list[Row] | None = None


def label_video(
    paths: Paths,
    out: str | os.PathLike[str] | None = None,
    *,
    model: str | Path = "nano",
    config: PredictorConfig | None = None,
    selection: Selection | None = None,
    follow: FollowConfig | None = None,
    annotate: str | os.PathLike[str] | None = None,
    timeline: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    excel: bool = False,
    tables: TablesConfig | None = None,
    progress: Progress | None = None,
) -> list[LabelledVideo]:
    """Recognise the emotions of all faces in videos, and follow each face from frame to frame.

    Files appear when they are complete, the table last. If no video can be read, none is written.

    Args:
        paths: a video file, or several.
        out: a .parquet, .csv or .jsonl file for the rows of all videos; None returns them, all in memory.
        model: as for `Predictor.load`.
        config: options of the predictor; None takes the defaults.
        selection: which frames are processed; None takes all.
        follow: how faces are detected, tracked and smoothed; None takes the defaults.
        annotate: an .mp4 file for a copy with faces and emotions drawn; of several videos, a folder for such files.
        timeline: a .png file for a plot of the emotions over time, or a folder.
        report: an .html file for a page with tracks, timeline and faces, or a folder.
        resume: continue an interrupted run with the same output and options; start one if there is none.
        overwrite: replace files that exist, and discard an interrupted run.
        excel: begin a .csv file with a byte order mark, which Excel needs.
        tables: what is counted in the rows, and the files it is written to, last of all; needs `out`. If that fails,
            `tabulate` can do it again.
        progress: called with the current step, frames done, and frames in total or None.

    Returns:
        One result per video; one that cannot be read has an error, and does not stop the others.

    Raises:
        ConfigError: if an option is out of range, there is no frame in the selected range of the only video, or the
            interrupted run had other options.
        OutputError: if a file exists or cannot be written, or there is an interrupted run, and it is neither to be
            resumed nor discarded.
    """
    videos = [Path(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
    out = None if out is None else Path(out)
    if resume and out is None:
        raise ConfigError("resume: without an output file there is no run to continue. Allowed: together with out")
    # A run that was killed while its files took their names may have left some of them.
    replace = overwrite or (resume and out is not None and (_hidden(out) / PUBLISHING).exists())
    files = plan_files(videos, out, {"annotate": annotate, "timeline": timeline, "report": report}, overwrite=replace)
    with needs_extra("av", "video"):
        import av  # noqa: F401

        if timeline or report:
            import jinja2  # noqa: F401
            import matplotlib  # noqa: F401
    if tables and tables.outputs:
        with needs_extra("pandas", "video"):
            from motivnet.video import tabulate
        if out is None:
            raise ConfigError("tables: without an output file. Allowed: together with out; or `tabulate` with the rows")
        tabulate.plan_tables(tables, videos, out, overwrite=replace)
    selection, follow, config = selection or Selection(), follow or FollowConfig(), config or PredictorConfig()
    predictor = Predictor.load(model, config)
    with contextlib.ExitStack() as stack:
        if out is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="motivnet-")))
        else:
            plan = {
                "motivnet": __version__,
                "video": ", ".join(map(_describe, videos)),
                "model": f"{predictor.config.name} {model_fingerprint(model, config.precision)}",
                **to_plain(config),
                **to_plain(selection),
                **to_plain(follow),
            }
            folder = stack.enter_context(_open_folder(out, plan, resume=resume, overwrite=overwrite))
            for path in (out, *itertools.chain.from_iterable(each.values() for each in files)):
                storage.remove_leftovers(path.parent, path.name)
        show = progress or (lambda what, done, total: None)
        results = _Job(predictor, selection, follow, videos, folder, show).run(
            out, files, overwrite=replace, excel=excel
        )
    if tables and tables.outputs and any(result.summary for result in results):
        tabulate.tabulate(out or (), tables, overwrite=replace, excel=excel)
    return results


def _describe(path: Path) -> str:
    stat = path.stat() if path.exists() else None
    return f"{path.absolute()} ({stat.st_size} bytes of {stat.st_mtime_ns})" if stat else f"{path.absolute()} (missing)"


@dataclasses.dataclass(kw_only=True, slots=True)
class State:
    """The state of one video in a run.

    Args:
        index: position of the last frame that is done; None before the first checkpoint.
        time_s: its time, in seconds.
        corrupt: number of corrupt frames up to there.
        frames: number of frames that are done.
        size_bytes: of their rows.
        picture: of that frame, with which the next one is compared.
        follow: from which `follow` resumes.
        finished: the video is done.
        damage: what is wrong with its end; None if nothing is.
        notes: what was special or wrong so far.
    """

    index: int | None = None
    time_s: float = 0.0
    corrupt: int = 0
    frames: int = 0
    size_bytes: int = 0
    picture: list[Any] | None = None
    follow: dict[str, Any] | None = None
    finished: bool = False
    damage: str | None = None
    notes: list[str] = dataclasses.field(default_factory=list)


def _hidden(out: Path) -> Path:
    return out.absolute().with_name(f".{out.name}.unfinished")


def _has_checkpoint(folder: Path) -> bool:
    return (folder / PLAN).exists() and any(path.name != PLAN for path in folder.glob("*.json"))


@contextlib.contextmanager
def _open_folder(out: Path, plan: dict[str, Any], *, resume: bool, overwrite: bool) -> Iterator[Path]:
    """Open the hidden folder of the run whose rows go to `out`, under a lock; it is removed unless it can be resumed.

    Args:
        out: the table of rows.
        plan: everything that the rows depend on, as plain data.
        resume: continue an interrupted run.
        overwrite: discard an interrupted run.
    """
    folder = _hidden(out)
    try:
        folder.mkdir(exist_ok=True)
        with storage.locked(folder / storage.LOCK_NAME, out):
            storage.remove_leftovers(folder)
            if _has_checkpoint(folder) and resume:
                allowed = "the same command, or --overwrite to start over"
                then = storage.stored_json(folder / PLAN) or plan
                storage.check_same(out, then, plan, kind="unfinished run", allowed=allowed)
            elif _has_checkpoint(folder) and not overwrite:
                raise OutputError(f"{out}: a run was not finished; --resume continues it, --overwrite starts over")
            else:
                for path in folder.iterdir():
                    if path.name != storage.LOCK_NAME:
                        path.unlink()
                storage.write_json(folder / PLAN, plan)
            try:
                yield folder
            finally:
                if not _has_checkpoint(folder):
                    shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from None


@dataclasses.dataclass(frozen=True, slots=True)
class _Job:
    """Everything that a run of several videos needs."""

    predictor: Predictor
    selection: Selection
    follow: FollowConfig
    videos: Sequence[Path]
    folder: Path
    progress: Progress

    def run(self, out: Path | None, files: Sequence[dict[str, Path]], **how: bool) -> list[LabelledVideo]:
        """Label all videos, and write the files."""
        errors = [self._label_or_fail(number) for number in range(len(self.videos))]
        if not all(errors):
            (self.folder / PUBLISHING).touch()
        results = [self._finish(*each) for each in zip(itertools.count(), errors, files, strict=False)]
        columns = self.predictor.columns
        if out is None:
            for number, result in enumerate(results):
                rows = [{name: row.get(name) for name in columns} for row in self._marked(number, result)]
                results[number] = dataclasses.replace(result, rows=rows)
            return results
        if not all(errors):
            with open_table(out, columns, **how) as write:
                for row in itertools.chain.from_iterable(itertools.starmap(self._marked, enumerate(results))):
                    write(row)
        (self.folder / PLAN).unlink()  # the run is over
        return results

    def _label_or_fail(self, number: int) -> str | None:
        """Label a video; return why it cannot be read, or None."""
        try:
            return self._label(number)
        except (ImageError, ConfigError) as error:
            if isinstance(error, ConfigError) and len(self.videos) == 1:
                raise
            return " ".join(str(error).split())

    def _label(self, number: int) -> None:
        """Do what is left of one video, from checkpoint to checkpoint."""
        path, state = self.videos[number], self._load(number)
        if state.finished:
            return
        after = None
        if state.index is not None:
            after = Position(state.index, state.time_s, state.corrupt, Picture(*(state.picture or ())))
        with (
            Video(path, self.selection, after=after, limits=self.predictor.limits) as video,
            (self.folder / f"{number}.jsonl").open("ab") as rows,
            contextlib.closing(follow(self.predictor, video, self.follow, state=state.follow)) as results,
        ):
            rows.truncate(state.size_bytes)
            rows.seek(state.size_bytes)
            shared, total = self._columns(number), video.estimate()
            for result in results:
                for row in result.rows(shared):
                    rows.write(to_json(row).encode() + b"\n")
                state.frames += 1
                if result.state is not None:
                    frame = result.frame
                    state.index, state.time_s, state.corrupt = frame.index, frame.time_s, frame.corrupt
                    state.picture, state.follow = list(frame.picture or ()), result.state
                    self._save(number, state, rows, video)
                self.progress(path.name, state.frames, total)
            state.corrupt, state.damage, state.finished = video.corrupt, video.damage, True
            self._save(number, state, rows, video)

    def _load(self, number: int) -> State:
        path = self.folder / f"{number}.json"
        return State(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else State()

    def _save(self, number: int, state: State, rows: Any, video: Video) -> None:
        """Write a checkpoint, after the rows that it counts."""
        state.notes = sorted({*state.notes, *video.notes()})
        rows.flush()
        os.fsync(rows.fileno())
        state.size_bytes = rows.tell()
        storage.write_json(self.folder / f"{number}.json", dataclasses.asdict(state))

    def _columns(self, number: int) -> Row:
        """Return the columns that all rows of a video share."""
        config, source = self.predictor.config, printable(str(self.videos[number]))
        return {"source": source, "model": config.name, "preprocessing": config.preprocessing.fingerprint}

    def _marked(self, number: int, result: LabelledVideo) -> Iterator[Row]:
        """Yield the rows of a video, complete; one that could not be read has a single row."""
        if result.summary is None:
            yield self._columns(number) | {"status": "unreadable", "error": printable(result.error or "")}
            return
        short = {track.track_id for track in result.summary.tracks if track.short}
        for row in self._rows(number):
            yield row | {"short_track": row["track"] in short} if "track" in row else row

    def _rows(self, number: int) -> Iterator[Row]:
        """Yield the rows of a video without what is known only at its end."""
        with (self.folder / f"{number}.jsonl").open(encoding="utf-8") as file:
            yield from map(json.loads, file)

    def _finish(self, number: int, error: str | None, files: dict[str, Path]) -> LabelledVideo:
        """Summarise a video, and write its own files."""
        path, state = self.videos[number], self._load(number)
        if error is not None:
            return LabelledVideo(path=path, error=error)
        summary = summarise(self._rows(number), self.predictor.config.labels.names, self.follow.min_track_s)
        result = LabelledVideo(
            path=path,
            corrupt=state.corrupt,
            damage=state.damage,
            notes=tuple(state.notes),
            summary=summary,
            files=tuple(files.values()),
        )
        if "annotate" in files:
            with Video(path, self.selection, limits=self.predictor.limits) as video:
                rows, workers = self._marked(number, result), self.predictor.workers
                frames = annotate_video(video, rows, summary.labels, files["annotate"], workers)
                with contextlib.closing(frames):
                    for done in frames:
                        self.progress(f"{path.name}, annotating", done, state.frames)
        if "timeline" in files or "report" in files:
            self._plot(number, state, summary, files)
        return result

    def _plot(self, number: int, state: State, summary: Summary, files: dict[str, Path]) -> None:
        from motivnet.report import video_report

        path, tracks = self.videos[number], video_report.shown_tracks(summary)
        found = curves(self._rows(number), summary, tracks, video_report.BINS)
        if "timeline" in files:
            with storage.atomic_path(files["timeline"], parents=True) as temporary:
                figure = video_report.draw_timeline(summary, tracks, found, printable(path.name))
                video_report.write_timeline(figure, temporary)
        if "report" in files:
            facts = self._facts(path, state, summary)
            thumbnails = grab_thumbnails(path, summary.tracks[: video_report.MAX_THUMBNAILS])
            figure = video_report.draw_timeline(summary, tracks, found, "")
            page = video_report.video_report(path, facts, summary, figure, thumbnails)
            storage.write_text(files["report"], page, parents=True)

    def _facts(self, path: Path, state: State, summary: Summary) -> dict[str, str]:
        """Return what the page states about the file, and how it was processed."""
        with Video(path) as video:
            info = video.info
        selection, follow, config = self.selection, self.follow, self.predictor.config
        chosen = "every frame" if selection.stride == 1 else f"one frame in {selection.stride}"
        if selection.fps is not None:
            chosen = f"at most {selection.fps:g} frames per second"
        detected = (
            f"one in {follow.detect_every} of these frames" if follow.detect_every > 1 else "each of these frames"
        )
        return {
            "file": printable(str(path)),
            "frame size": f"{info.width} x {info.height} pixels, {info.codec}",
            "frame rate": f"{info.fps:.4g} per second on average" if info.fps else "not stated",
            "duration": f"{info.duration_s:.2f} s" if info.duration_s else "not stated",
            "processed": f"{summary.frames:,} frames, {summary.start_s:.2f} to {summary.end_s:.2f} s ({chosen})",
            "without a face": f"{summary.empty:,} frames",
            "corrupt": f"{state.corrupt:,} frames skipped" + (f"; the file {state.damage}" if state.damage else ""),
            **({"special": "; ".join(state.notes)} if state.notes else {}),
            "model": f"{config.name}: {config.summary}",
            "licence of the weights": config.licence,
            "face detector": f"{self.predictor.detector.name}, in {detected}",
            "smoothing": f"time constant {follow.smooth_s:g} s" if follow.smooth_s else "none",
        }

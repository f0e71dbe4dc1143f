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

from motivnet.checkpoints.fingerprint import model_fingerprint
from motivnet.config import to_plain
from motivnet.errors import ConfigError, ImageError, OutputError, needs_extra
from motivnet.inference.predictor import Predictor
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.inference.rows import Row, all_columns, printable
from motivnet.inference.tables import open_table
from motivnet.storage import LOCK_NAME, RunFolder, atomic_path, remove_leftovers, write_json, write_text
from motivnet.version import __version__
from motivnet.video.follow import follow
from motivnet.video.outputs import Progress, annotate_video, find_videos, grab_thumbnails, plan_files
from motivnet.video.reader import Position, Video
from motivnet.video.summary import Summary, curves, summarise
from motivnet.video.video_config import FollowConfig, Selection

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
PLAN, PUBLISHING = "plan.json", "publishing"
ALLOWED = "the same command, or --overwrite to begin anew"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LabelledVideo:
    """The result of one video.

    Args:
        path: of the video.
        error: why it could not be read; None if it could.
        corrupt: number of frames that could not be decoded, and were skipped.
        damage: what is wrong with the end of the file; None if nothing is.
        summary: of its rows; None if it could not be read.
        files: that were written for this video alone.
        rows: one per face and frame, with all columns of the codebook; None if they were written to a file.
    """

    path: Path
    error: str | None = None
    corrupt: int = 0
    damage: str | None = None
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
    progress: Progress = lambda what, done, total: None,
) -> list[LabelledVideo]:
    """Recognise the emotions of all faces in videos, and follow each face from frame to frame.

    Files appear when they are complete, the table last. If no video can be read, none is written.

    Args:
        paths: a video file or a glob pattern, or several.
        out: a .parquet, .csv or .jsonl file for the rows of all videos; None returns them, all in memory.
        model: as for `Predictor.load`.
        config: options of the predictor; None takes the defaults.
        selection: which frames are processed; None takes all.
        follow: how faces are detected, tracked and smoothed; None takes the defaults.
        annotate: an .mp4 file for a copy with faces and emotions drawn; of several videos, a folder for such files.
        timeline: a .png file for a plot of the emotions over time, or a folder.
        report: an .html file for a page with tracks, timeline and faces, or a folder.
        resume: continue an interrupted run with the same output and options; without one, begin.
        overwrite: replace files that exist, and discard an interrupted run.
        progress: called with the current step, frames done, and frames in total or None.

    Returns:
        One result per video; one that cannot be read has an error, and does not stop the others.

    Raises:
        DataError: if a path does not exist.
        ConfigError: if an option is out of range, there is no frame in the selected range of the only video, or the
            interrupted run had other options.
        OutputError: if a file exists or cannot be written, or there is an interrupted run, and it is neither to be
            resumed nor discarded.
    """
    videos, out = find_videos(paths), None if out is None else Path(out)
    if resume and out is None:
        raise ConfigError("resume: without an output file there is no run to continue. Allowed: together with out")
    # A run that was killed while its files took their names may have left some of them.
    replace = overwrite or (resume and out is not None and Unfinished(_hidden(out)).publishing)
    files = plan_files(videos, out, {"annotate": annotate, "timeline": timeline, "report": report}, overwrite=replace)
    with needs_extra("av", "video"):
        import av  # noqa: F401
    if timeline or report:
        with needs_extra("matplotlib", "video"):
            import jinja2  # noqa: F401
            import matplotlib  # noqa: F401
    selection, follow, config = selection or Selection(), follow or FollowConfig(), config or PredictorConfig()
    predictor = Predictor.load(model, config)
    with contextlib.ExitStack() as stack:
        if out is None:
            run = Unfinished(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="motivnet-"))))
        else:
            described = [
                f"{path.absolute()} ({path.stat().st_size} bytes of {path.stat().st_mtime_ns})" for path in videos
            ]
            plan = {
                "motivnet": __version__,
                "video": ", ".join(described),
                "model": f"{predictor.config.name} {model_fingerprint(model)}",
                **to_plain(config),
                **to_plain(selection),
                **to_plain(follow),
            }
            run = stack.enter_context(_open_unfinished(out, plan, resume=resume, overwrite=overwrite))
            for path in (out, *itertools.chain.from_iterable(each.values() for each in files)):
                remove_leftovers(path.parent, path.name)
        return _Job(predictor, selection, follow, videos, run, progress).run(out, files, overwrite=replace)


@dataclasses.dataclass(kw_only=True, slots=True)
class State:
    """The state of one video in a run.

    Args:
        index: position of the last frame that is done; None before the first checkpoint.
        time_s: its time, in seconds.
        corrupt: number of corrupt frames up to there.
        frames: number of frames that are done.
        size_bytes: of their rows.
        follow: from which `follow` resumes.
        finished: the video is done.
        error: why it could not be read; None if it could.
        damage: what is wrong with its end; None if nothing is.
    """

    index: int | None = None
    time_s: float = 0.0
    corrupt: int = 0
    frames: int = 0
    size_bytes: int = 0
    follow: dict[str, Any] | None = None
    finished: bool = False
    error: str | None = None
    damage: str | None = None


class Unfinished:
    """The hidden folder of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return (self.folder / PLAN).exists() and any(path.name != PLAN for path in self.folder.glob("*.json"))

    @property
    def publishing(self) -> bool:
        """Whether the run had begun to write its outputs when it ended."""
        return (self.folder / PUBLISHING).exists()

    def load(self, number: int) -> State:
        """Return the state of a video; a new one if there is none."""
        path = self.folder / f"{number}.json"
        return State(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else State()

    def save(self, number: int, state: State) -> None:
        """Write the state of a video."""
        write_json(self.folder / f"{number}.json", dataclasses.asdict(state))

    def rows_file(self, number: int) -> Path:
        """Return the file of a video's rows."""
        return self.folder / f"{number}.jsonl"

    def rows(self, number: int) -> Iterator[Row]:
        """Yield the rows of a finished video."""
        with self.rows_file(number).open(encoding="utf-8") as file:
            yield from map(json.loads, file)

    def remove(self) -> None:
        """Delete the folder, the plan first: without it the rest has no meaning."""
        (self.folder / PLAN).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _hidden(out: Path) -> Path:
    return out.absolute().with_name(f".{out.name}.unfinished")


@contextlib.contextmanager
def _open_unfinished(out: Path, plan: dict[str, Any], *, resume: bool, overwrite: bool) -> Iterator[Unfinished]:
    """Open the folder of the run whose rows go to `out`, under a lock; a plan is everything that the rows depend on."""
    run = Unfinished(_hidden(out))
    folder = RunFolder(run.folder, plan_name=PLAN, kind="unfinished run")
    try:
        run.folder.mkdir(exist_ok=True)
        with folder.lock(shown=out):
            remove_leftovers(run.folder)
            if run.begun and resume:
                folder.check_plan(plan, shown=out, allowed=ALLOWED)
            elif run.begun and not overwrite:
                raise OutputError(f"{out}: a run was not finished; --resume continues it, --overwrite begins anew")
            else:
                for path in run.folder.iterdir():
                    if path.name != LOCK_NAME:
                        path.unlink()
                folder.write_plan(plan)
            try:
                yield run
            finally:
                if not run.begun:
                    run.remove()
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from None


@dataclasses.dataclass(frozen=True, slots=True)
class _Job:
    """All that a run of several videos needs."""

    predictor: Predictor
    selection: Selection
    follow: FollowConfig
    videos: Sequence[Path]
    unfinished: Unfinished
    progress: Progress

    @property
    def labels(self) -> tuple[str, ...]:
        return self.predictor.config.labels.names

    def run(self, out: Path | None, files: Sequence[dict[str, Path]], *, overwrite: bool) -> list[LabelledVideo]:
        """Label all videos, and write the files."""
        states = [self._label_or_fail(number) for number in range(len(self.videos))]
        readable = not all(state.error for state in states)
        if readable:
            (self.unfinished.folder / PUBLISHING).touch()
        results = [self._result(number, state, files[number]) for number, state in enumerate(states)]
        if out is not None:
            if readable:
                with open_table(out, all_columns(self.labels), overwrite=overwrite) as write:
                    for number, state in enumerate(states):
                        for row in self._rows(number, state):
                            write(row)
            self.unfinished.remove()
            return results
        columns = all_columns(self.labels)
        listed = [
            [{name: row.get(name) for name in columns} for row in self._rows(*each)] for each in enumerate(states)
        ]
        return [dataclasses.replace(result, rows=rows) for result, rows in zip(results, listed, strict=True)]

    def _label_or_fail(self, number: int) -> State:
        try:
            return self._label(number)
        except (ImageError, ConfigError) as error:
            if isinstance(error, ConfigError) and len(self.videos) == 1:
                raise
            state = State(finished=True, error=" ".join(str(error).split()))
            self.unfinished.save(number, state)
            return state

    def _label(self, number: int) -> State:
        """Do what is left of one video, from checkpoint to checkpoint."""
        path, state = self.videos[number], self.unfinished.load(number)
        if state.finished:
            return state
        after = None if state.index is None else Position(state.index, state.time_s, state.corrupt)
        with (
            Video(path, self.selection, after=after, limits=self.predictor.limits) as video,
            self.unfinished.rows_file(number).open("ab") as rows,
            contextlib.closing(follow(self.predictor, video, self.follow, state=state.follow)) as results,
        ):
            rows.truncate(state.size_bytes)
            rows.seek(state.size_bytes)
            shared, total = self._columns(path), video.estimate()
            for result in results:
                for row in result.rows(shared):
                    rows.write(json.dumps(row).encode() + b"\n")
                state.frames += 1
                if result.state is not None:
                    frame = result.frame
                    state.index, state.time_s, state.corrupt = frame.index, frame.time_s, frame.corrupt
                    state.follow = result.state
                    self._checkpoint(number, state, rows)
                self.progress(path.name, state.frames, total)
            state.corrupt, state.damage, state.finished = video.corrupt, video.damage, True
            self._checkpoint(number, state, rows)
        return state

    def _checkpoint(self, number: int, state: State, rows: Any) -> None:
        rows.flush()
        os.fsync(rows.fileno())
        state.size_bytes = rows.tell()
        self.unfinished.save(number, state)

    def _columns(self, path: Path) -> Row:
        """Return the columns that all rows of a video share."""
        config = self.predictor.config
        fingerprint = config.preprocessing.fingerprint
        return {"source": printable(str(path)), "model": config.name, "preprocessing": fingerprint}

    def _rows(self, number: int, state: State) -> Iterator[Row]:
        """Yield the rows of a video; one that could not be read has a single row."""
        if state.error is None:
            yield from self.unfinished.rows(number)
        else:
            yield self._columns(self.videos[number]) | {"status": "unreadable", "error": printable(state.error)}

    def _result(self, number: int, state: State, files: dict[str, Path]) -> LabelledVideo:
        """Summarise a finished video, and write its own files."""
        path = self.videos[number]
        if state.error is not None:
            return LabelledVideo(path=path, error=state.error)
        summary = summarise(self.unfinished.rows(number), self.labels)
        if "annotate" in files:
            annotate_video(
                path,
                self.unfinished.rows(number),
                files["annotate"],
                labels=self.labels,
                selection=self.selection,
                limits=self.predictor.limits,
                progress=lambda done: self.progress(f"{path.name}, annotating", done, state.frames),
            )
        if "timeline" in files or "report" in files:
            self._plot(number, state, summary, files)
        written = tuple(files.values())
        return LabelledVideo(path=path, corrupt=state.corrupt, damage=state.damage, summary=summary, files=written)

    def _plot(self, number: int, state: State, summary: Summary, files: dict[str, Path]) -> None:
        from motivnet.report.timeline import BINS, draw_timeline, shown_tracks, write_timeline
        from motivnet.report.video_report import MAX_THUMBNAILS, video_facts, video_report

        path, tracks = self.videos[number], shown_tracks(summary)
        found = curves(self.unfinished.rows(number), summary, tracks, BINS)
        if "timeline" in files:
            with atomic_path(files["timeline"], parents=True) as temporary:
                write_timeline(draw_timeline(summary, tracks, found, printable(path.name)), temporary)
        if "report" in files:
            with Video(path) as video:
                info = video.info
            facts = video_facts(
                path,
                info,
                summary,
                self.selection,
                self.follow,
                model=self.predictor.config,
                detector=self.predictor.detector.name,
                corrupt=state.corrupt,
                damage=state.damage,
            )
            thumbnails = grab_thumbnails(path, summary.tracks[:MAX_THUMBNAILS])
            page = video_report(path, facts, summary, draw_timeline(summary, tracks, found, ""), thumbnails)
            write_text(files["report"], page, parents=True)

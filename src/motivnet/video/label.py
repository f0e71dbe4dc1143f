"""The work of `motivnet video` on one file after the other, from checkpoint to checkpoint."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motivnet.inference.rows import Row, printable
from motivnet.video.checkpoints import Parts, State
from motivnet.video.overlay import draw_frame

if TYPE_CHECKING:
    from motivnet.inference.predictor import Predictor
    from motivnet.video.follow import FollowConfig, FrameResult
    from motivnet.video.reader import Selection
    from motivnet.video.writer import VideoWriter

# Results that wait to be written and drawn.
RESULTS_AHEAD = 4
# Shows how far the work has come: (frames done, frames in all or None if that is not known).
Show = Callable[[int, int | None], None]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is done with every video.

    Args:
        predictor: model and detector.
        selection: which frames are wanted.
        follow: how faces are followed; its checkpoints are where an ended run goes on.
        annotate: whether an annotated copy is made.
    """

    predictor: "Predictor"
    selection: "Selection"
    follow: "FollowConfig"
    annotate: bool

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the model, in order."""
        return self.predictor.config.labels.names

    def columns(self, path: Path) -> Row:
        """Return the columns that all rows of a video share."""
        config = self.predictor.config
        source, preprocessing = printable(str(path)), config.preprocessing.fingerprint
        return {"source": source, "model": config.name, "preprocessing": preprocessing}


def run_video(job: Job, path: Path, number: int, parts: Parts, show: Show) -> State:
    """Do what is left of one video; gives its last state.

    Args:
        job: what is to be done.
        path: the video.
        number: its place among the videos.
        parts: where what is done is kept.
        show: called for every frame.

    Raises:
        ImageError: if it cannot be read.
        ConfigError: if no frame lies in the range that is wanted.
        OutputError: if the annotated copy cannot be written.
    """
    from motivnet.video.follow import follow
    from motivnet.video.read_ahead import read_ahead
    from motivnet.video.reader import Position, Video

    state = parts.load(number)
    if state.finished:
        return state
    after = None if state.index is None else Position(state.index, state.time_s, state.corrupt)
    with (
        Video(path, job.selection, after=after, limits=job.predictor.limits) as video,
        parts.append_rows(number, state) as rows,
        contextlib.closing(
            read_ahead(follow(job.predictor, video, job.follow, state=state.follow), RESULTS_AHEAD)
        ) as results,
        contextlib.closing(_Copy(parts, number, state, video.info.fps)) as copy,
    ):
        shared = job.columns(path) | {"image_width": video.info.width, "image_height": video.info.height}
        total, before = job.selection.estimate(video.info, after), 0
        if after and total is not None:
            before = max(0, (job.selection.estimate(video.info) or 0) - total)
            total += before
        for done, result in enumerate(results, 1):
            for row in result.rows(shared):
                rows.write(json.dumps(row).encode() + b"\n")
            if job.annotate:
                copy.write(result)
            if result.state is not None:
                _reach(state, result, rows, copy)
                parts.save(number, state)
            show(before + done, total)
        _reach(state, None, rows, copy)
        state.corrupt, state.damage, state.finished = video.corrupt, video.damage, True
    parts.save(number, state)
    return state


def _reach(state: State, result: "FrameResult | None", rows: Any, copy: "_Copy") -> None:
    """Make sure that what has been done stays, and note it."""
    rows.flush()
    os.fsync(rows.fileno())
    state.size_bytes = rows.tell()
    copy.end_piece()
    if result is not None:
        state.index, state.time_s, state.corrupt = result.index, result.time_s, result.corrupt
        state.follow = result.state


class _Copy:
    """The annotated copy of a video, in pieces that end at checkpoints."""

    def __init__(self, parts: Parts, number: int, state: State, fps: float | None) -> None:
        self._parts, self._number, self._state, self._fps = parts, number, state, fps
        self._size = None if state.size is None else (state.size[0], state.size[1])
        self._writer: VideoWriter | None = None
        self._start_s = 0.0

    def write(self, result: "FrameResult") -> None:
        from motivnet.video.writer import VideoWriter

        image_hwc_u8 = draw_frame(result)
        if self._writer is None:
            # All pieces are of the size of the first frame.
            self._size = self._size or image_hwc_u8.shape[:2]
            self._start_s = result.time_s
            path = self._parts.new_piece(self._number, self._state)
            self._writer = VideoWriter(path, self._size, fps=self._fps)
        self._writer.write(image_hwc_u8, result.time_s - self._start_s)

    def end_piece(self) -> None:
        """Finish the file of this piece, and add it to the state."""
        if self._writer is not None:
            self._writer.close()
            self._state.pieces.append((self._writer.path.name, self._start_s))
            self._state.size = self._size
            self._writer = None

    def close(self) -> None:
        """Leave a piece that was not ended; it counts for nothing."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Give the rows of a finished video, one at a time."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def all_rows(job: Job, parts: Parts, videos: list[Path]) -> Generator[Row, None, None]:
    """Yield the rows of all videos in order; one that failed has a single row."""
    for number, path in enumerate(videos):
        error = parts.load(number).error
        if error is not None:
            yield job.columns(path) | {"status": "unreadable", "error": printable(error)}
        else:
            yield from read_rows(parts.rows_file(number))

"""The files of a video's results: planned before any work is done, and made from its complete rows."""

import itertools
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from motivnet.errors import ImageError, OutputError
from motivnet.frames.ahead import map_ahead
from motivnet.frames.reader import Frame, Video
from motivnet.frames.selection import Selection
from motivnet.inference.draw import draw_frame
from motivnet.inference.results import FaceResult
from motivnet.inference.rows import Row, landmarks_of
from motivnet.inference.tables import check_output
from motivnet.preprocess import Box, crop
from motivnet.video.summary import Track, by_frame
from motivnet.video.writer import encodable, write_video

if TYPE_CHECKING:
    from av import VideoFrame

# Beside the table of rows: option and suffix of each file that a video may have.
SUFFIXES = {"annotate": ".mp4", "timeline": ".png", "report": ".html", "elan": ".eaf"}
# Around a face in a thumbnail: share of its longer side, on each side.
THUMBNAIL_MARGIN = 0.3

# Called with the current step, frames done, and frames in total if that is known.
Progress = Callable[[str, int, int | None], None]


def plan_files(
    videos: Sequence[Path], out: Path | None, given: Mapping[str, str | os.PathLike[str] | None], *, overwrite: bool
) -> list[dict[str, Path]]:
    """Choose the files of each video's results, before any work is done.

    Args:
        videos: what is read.
        out: the table of rows, if there is one.
        given: option, of `SUFFIXES`, -> its argument: a file; of several videos a folder, in which each video's file
            has its name.
        overwrite: whether files that exist may be replaced.

    Returns:
        Of each video, option -> file.

    Raises:
        OutputError: if a file exists, is a video that is read, is named twice, has another suffix or no folder.
    """
    if out is not None:
        check_output(out, overwrite=overwrite)
    planned = {option: _plan(videos, option, Path(path)) for option, path in given.items() if path is not None}
    refused = {video.resolve(): "is the video that is read" for video in videos}
    for path in itertools.chain([out] if out else [], *planned.values()):
        if reason := refused.get(path.resolve()):
            raise OutputError(f"{path}: {reason}")
        refused[path.resolve()] = "is named twice"
    for option, paths in planned.items():
        if len(videos) == 1:
            check_output(paths[0], overwrite=overwrite, formats=(SUFFIXES[option],))
        elif not overwrite and (held := [path for path in paths if path.exists()]):
            raise OutputError(f"{held[0]}: exists already; --overwrite replaces it")
    return [{option: paths[number] for option, paths in planned.items()} for number in range(len(videos))]


def _plan(videos: Sequence[Path], option: str, given: Path) -> list[Path]:
    if len(videos) == 1:
        return [given]
    if given.exists() and not given.is_dir():
        raise OutputError(f"{given}: is a file; of several videos --{option} writes a folder")
    names: dict[str, str] = {}
    for video in videos:
        stems = itertools.chain([video.stem], (f"{video.stem}-{number}" for number in itertools.count(2)))
        # Some file systems are case-insensitive.
        name = next(name for stem in stems if (name := f"{stem}{SUFFIXES[option]}").casefold() not in names)
        names[name.casefold()] = name
    return [given / name for name in names.values()]


def annotate_video(
    video: Video, rows: Iterable[Row], labels: Sequence[str], target: Path, workers: int = 2
) -> Generator[int, None, None]:
    """Write a copy of a video and its sound with the faces of its rows drawn on it; yield the number of frames so far.

    Args:
        video: opened anew, with the selection and limits of the rows.
        rows: of the video, in order.
        labels: of the model, in order.
        target: the copy.
        workers: threads that draw.

    Raises:
        ImageError: if the frames are not those of the rows.
        OutputError: if the copy cannot be written.
    """

    def draw(pair: tuple[Frame, tuple[int, float, list[Row]]]) -> tuple["VideoFrame", float]:
        frame, (index, _, found) = pair
        if frame.index != index:
            raise ImageError(f"{video.path}: has changed since its faces were labelled")
        faces = [_face(row, labels) for row in found]
        tracks = [f"{row['track']} (short)" if row["short_track"] else row["track"] for row in found]
        return encodable(draw_frame(frame.image_hwc_u8, faces, tracks)), frame.time_s

    pairs = zip(video, by_frame(rows), strict=False)
    with write_video(target, fps=video.info.fps, sound=video.path) as write:
        for done, drawn in enumerate(map_ahead(draw, pairs, workers), 1):
            write(*drawn)
            yield done


def _face(row: Row, labels: Sequence[str]) -> FaceResult:
    box = Box(row["x"], row["y"], row["width"], row["height"])
    probs = {label: row[f"prob_{label}"] for label in labels}
    return FaceResult(box, row["face_score"], row["emotion"], probs, row["abstained"], landmarks=landmarks_of(row))


def grab_thumbnails(path: Path, tracks: Iterable[Track]) -> list[np.ndarray]:
    """Crop each track from its most typical frame; RGB, uint8 (h, w, 3)."""
    thumbnails = []
    for track in tracks:
        time_s, (x, y, width, height) = track.typical
        with Video(path, Selection(start_s=time_s)) as video:
            frames = iter(video)
            image_hwc_u8 = next(frames).image_hwc_u8
            frames.close()
        margin = THUMBNAIL_MARGIN * max(width, height)
        box = Box(x - margin, y - margin, width + 2 * margin, height + 2 * margin)
        thumbnails.append(np.ascontiguousarray(crop(image_hwc_u8, box, None)))
    return thumbnails

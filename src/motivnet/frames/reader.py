"""Read a video: upright RGB frames with their times, decoded ahead in a thread, in constant memory.

A frame's `index` is its position, from 0, in display order, at constant and variable frame rates and whatever is
selected; corrupt frames count too, so that it is the number that an editor shows. Its `time_s` is its presentation time
stamp, relative to the start of the file, and repaired where that does not ascend (`motivnet.frames.times`). Frames are
deinterlaced and turned upright; sound is ignored. Frames before the selected range are not decoded if the file is
seekable, and its times up to there are in order: reading begins at the key frame before, whose index is the number of
packets that are shown earlier.

Shape suffixes: h height, w width, c channels.
"""

import dataclasses
import itertools
import logging
import math
import os
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from motivnet.errors import ConfigError, ImageError, needs_extra, require
from motivnet.frames.ahead import read_ahead
from motivnet.frames.container import open_container, shown_size, upright, video_info, video_stream
from motivnet.frames.cuts import SAME, Picture, compare
from motivnet.frames.deinterlace import Shown, deinterlace
from motivnet.frames.selection import Selection
from motivnet.frames.times import TIME_TOLERANCE_S, Clock
from motivnet.images import ImageLimits, NamedImage

if TYPE_CHECKING:
    from av import VideoFrame

_log = logging.getLogger(__name__)
# Frames decoded ahead of the one in use: enough to even out key frames, 22 MB at 1280 x 720.
FRAMES_AHEAD = 8
# How much earlier to seek, in seconds, one attempt after the other, as files index key frames by decoding time.
SEEK_BACK_S = (0.0, 1.0, 10.0)
# A file that ends this much earlier than it states, in seconds, is damaged.
MISSING_END_S = 1.0
# Codecs whose packets do not correspond to frames one by one: some are references that are never shown.
HIDDEN_FRAMES = ("vp8", "msmpeg4v3", "mpeg1video", "mpeg2video")


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """One frame.

    Args:
        index: its position in the file, from 0.
        time_s: when it is shown, in seconds from the start of the file.
        image_hwc_u8: upright RGB, uint8 (h, w, 3).
        corrupt: number of corrupt frames between the start of the selected range and this frame.
        jump: `SAME`, `UNCERTAIN` or `CUT` of `motivnet.frames.cuts`, whichever is greatest since the frame before.
        picture: with which the next frame is compared; None of a camera.
    """

    index: int
    time_s: float
    image_hwc_u8: np.ndarray
    corrupt: int = 0
    jump: int = SAME
    picture: Picture | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    """A frame after which reading resumes; the fields are those of `Frame`."""

    index: int
    time_s: float
    corrupt: int = 0
    picture: Picture | None = None


class Video:
    """An open video file; iterate over it once for its selected frames, and close it.

    Attributes:
        info: what the file states about itself.
        corrupt: number of frames in the selected range that could not be decoded so far; they are skipped.
        decoded: number of frames that were decoded so far, selected or not.
        damage: what is wrong with the end of the file, once it has been reached; None if nothing is.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        selection: Selection | None = None,
        *,
        after: Position | None = None,
        limits: ImageLimits | None = None,
    ) -> None:
        """Open a file.

        Args:
            path: the file.
            selection: which frames to read; None reads all.
            after: a frame of an earlier reading of this file with this selection: continues after it, exactly as that
                reading would have.
            limits: frame sizes beyond which the video is refused; None takes the defaults. The size of the file is not
                limited.

        Raises:
            ImageError: if the file is missing, not a video, has no video stream, or frames beyond the limits.
        """
        self.path, self.selection = Path(path), selection or Selection()
        self.corrupt = self.decoded = 0
        self.damage: str | None = None
        self._after, self._limits = after, limits or ImageLimits()
        self._lock = threading.Lock()
        self._closed = False
        self._interlaced = False
        self._container = open_container(self.path)
        try:
            self._stream = video_stream(self.path, self._container)
            self.info = video_info(self._container, self._stream)
            self._check_size(self.info.width, self.info.height)
        except ImageError:
            self._container.close()
            raise
        self._rewind()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; an iteration in progress ends."""
        with self._lock:
            self._closed = True
            self._container.close()

    def __iter__(self) -> Generator[Frame, None, None]:
        """Yield the selected frames in order, decoded ahead in a thread.

        Raises:
            ImageError: if no frame at all can be decoded, or one is beyond the limits.
            ConfigError: if the selected range contains no frame.
        """
        return read_ahead(self._selected(), FRAMES_AHEAD)

    def estimate(self) -> int | None:
        """Estimate how many frames are selected in the whole file, for a progress bar; None if it cannot be known."""
        info, selection = self.info, self.selection
        if not info.num_frames or not info.fps:
            return None
        end_s = min(selection.end_s or math.inf, info.num_frames / info.fps)
        fps = info.fps / selection.stride if selection.fps is None else min(selection.fps, info.fps)
        return round(max(0.0, end_s - selection.start_s) * fps)

    def notes(self) -> list[str]:
        """Return what was special or wrong in what has been read so far, and what was done about it."""
        interlaced = ["interlaced frames were deinterlaced"] if self._interlaced else []
        return [*self._clock.repairs, *interlaced, *self.info.notes()]

    def _selected(self) -> Iterator[Frame]:
        from av.video.reformatter import VideoReformatter

        selection, selected, reformatter = self.selection, 0, VideoReformatter()
        last_s, due_s, picture, jump = 0.0, selection.start_s, None, SAME
        if self._after:
            last_s, due_s = self._after.time_s, self._due_after(self._after.time_s)
            picture = self._after.picture
        for index, time_s, corrupt, frame in deinterlace(self._decoded()):
            # The first of them is needed to deinterlace the next one.
            if self._after and index <= self._after.index:
                continue
            last_s = time_s
            if selection.end_s is not None and time_s >= selection.end_s - TIME_TOLERANCE_S:
                break
            if time_s < selection.start_s - TIME_TOLERANCE_S:
                continue
            # Also in frames that are not selected: those that are may be far apart.
            picture = compare(picture, frame)
            jump = max(jump, picture.jump)
            if time_s < due_s - TIME_TOLERANCE_S or index % selection.stride:
                continue
            due_s = self._due_after(time_s)
            selected += 1
            self._check_size(*shown_size(frame, self.info.pixel_aspect))
            image_hwc_u8 = upright(frame, self.info.pixel_aspect, reformatter)
            yield Frame(index, time_s, image_hwc_u8, corrupt, jump, picture)
            jump = SAME
        else:
            self._check_end(last_s)
        if self._closed or self._after:
            return
        require(self.decoded, f"{self.path}: no frame of the video can be decoded ({self.corrupt} corrupt)", ImageError)
        if not selected:
            upto = "the end" if selection.end_s is None else f"{selection.end_s:g} s"
            raise ConfigError(
                f"{self.path}: no frame from {selection.start_s:g} s to {upto}; the last one seen is at {last_s:g} s"
            )

    def _due_after(self, time_s: float) -> float:
        """Return when the next frame is due after the one selected at `time_s`, in seconds."""
        start_s, fps = self.selection.start_s, self.selection.fps
        if fps is None:
            return start_s
        return start_s + (math.floor((time_s - start_s + TIME_TOLERANCE_S) * fps) + 1) / fps

    def _decoded(self) -> Iterator[Shown]:
        """Yield intact frames from a key frame before the selected start, or from `after` on.

        They are decoded from the beginning if the times before such a key frame are not in order.
        """
        place_s = self._after.time_s if self._after else self.selection.start_s
        for back_s in SEEK_BACK_S:
            if place_s <= back_s or not self._seek(place_s - back_s):
                break
            frames = self._numbered()
            first = next(frames, None)
            if first is None or not first.frame.key_frame or first.time_s > place_s + TIME_TOLERANCE_S:
                continue
            rank = self._rank(first.frame)
            if rank is None:
                continue
            self._index, self.corrupt = rank, 0
            frames = self._behind(itertools.chain([first._replace(index=rank, corrupt=0)], frames))
            if frames is None:
                break
            yield from frames
            return
        if place_s > 0:
            self._reopen()
        frames = self._behind(self._numbered())
        if frames is None and not self._closed:
            raise ImageError(f"{self.path}: the frame at {place_s:g} s, after which to continue, is not there any more")
        yield from frames or ()

    def _behind(self, frames: Iterator[Shown]) -> Iterator[Shown] | None:
        """Pass over the frames before `after`, if there is one; return None if no frame has its time."""
        after = self._after
        if after is None:
            return frames
        found = next((shown for shown in frames if shown.time_s >= after.time_s - TIME_TOLERANCE_S), None)
        if found is None or found.time_s > after.time_s + TIME_TOLERANCE_S:
            return None
        self._index, self.corrupt = after.index, after.corrupt
        return itertools.chain([found._replace(index=after.index)], frames)

    def _numbered(self) -> Iterator[Shown]:
        """Decode from where the file is; corrupt frames are counted."""
        for frame in self._frames():
            time_s = self._clock.time_s(frame)
            if frame.is_corrupt:
                self._skip_corrupt()
                continue
            self.decoded += 1
            self._index += 1
            self._interlaced |= frame.interlaced_frame
            if time_s < self.selection.start_s - TIME_TOLERANCE_S:
                self.corrupt = 0
            yield Shown(self._index, time_s, self.corrupt, frame)

    def _seek(self, time_s: float) -> bool:
        """Seek to the key frame before; return False if this file is not seekable."""
        import av

        with self._lock:
            if self._closed or not self._stream.time_base:
                return False
            try:
                begin_s = (self._container.start_time or 0) / 1_000_000
                offset = round((time_s + begin_s) / self._stream.time_base)
                self._container.seek(offset, stream=self._stream)
            except av.FFmpegError:
                return False
            self._rewind()
        return True

    def _rewind(self) -> None:
        """Forget what was read, as the file is at another place."""
        self._clock = Clock(self._container, self._stream, self.info.fps)
        # Of the last frame that was decoded, or found corrupt.
        self._index, self.corrupt = -1, 0
        # Time stamp and position of the first key frame's packet.
        self._key: tuple[int | None, int | None] | None = None

    def _rank(self, first: "VideoFrame") -> int | None:
        """Count the frames shown before the first one, without decoding; None if the packets do not show it."""
        import av

        # The packets of interlaced frames may be single fields.
        hidden = self.info.codec in HIDDEN_FRAMES or first.interlaced_frame
        if hidden or first.pts is None or self._key is None or self._key[0] != first.pts:
            return None
        with open_container(self.path) as container:
            try:
                packets = container.demux(container.streams[self._stream.index])
                return self._clock.rank(packets, first.pts, self._key[1])
            except av.FFmpegError:
                return None

    def _reopen(self) -> None:
        """Open the file again, as not every file that is not seekable can be rewound."""
        with self._lock:
            if self._closed:
                return
            self._container.close()
            self._container = open_container(self.path)
            self._stream = video_stream(self.path, self._container)
            self._rewind()

    def _frames(self) -> "Iterator[VideoFrame]":
        import av

        packets = self._container.demux(self._stream)
        more = True
        while more:
            # Closing the file in the middle of a call would crash the process.
            with self._lock:
                if self._closed:
                    return
                try:
                    packet = next(packets, None)
                except av.FFmpegError as error:  # the rest of the file is missing or damaged
                    self.damage = f"cannot be read to its end ({error.strerror or error})"
                    packet = None
                more = packet is not None
                if packet is not None:
                    self._clock.add(packet)
                    if self._key is None and packet.is_keyframe:
                        self._key = packet.pts, packet.pos
                try:
                    # Without a packet the decoder returns the frames it still holds.
                    frames = self._stream.decode(packet)
                except EOFError:  # it has returned them already
                    frames = []
                except av.FFmpegError:
                    self._skip_corrupt()
                    frames = []
            yield from frames

    def _skip_corrupt(self) -> None:
        self.corrupt += 1
        self._index += 1

    def _check_end(self, last_s: float) -> None:
        """Compare the end of the file with the duration that it states."""
        duration_s = self.info.duration_s
        if self.damage or duration_s is None or not self.info.alone or not self.decoded or self._clock.continued:
            return
        if duration_s - last_s > MISSING_END_S + 2 / (self.info.fps or 25.0):
            self.damage = f"ends at {last_s:.2f} s, and says that it lasts {duration_s:.2f} s"

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._limits.max_pixels:
            raise ImageError(
                f"{self.path}: frames of {width} x {height} pixels, the limit is {self._limits.max_pixels} in all"
            )


def frames_of(
    path: str | os.PathLike[str], *, every_s: float = 1.0, limits: ImageLimits | None = None
) -> Iterator[NamedImage]:
    """Sample frames of a video as separate photographs, for `Predictor.stream`.

    Args:
        path: the file.
        every_s: time between two frames, in seconds.
        limits: of a frame; None takes the defaults.

    Returns:
        An iterator of frames named by their times, such as `clip.mp4@12.000s`. What was special or wrong in the file
        is logged as a warning. If the video cannot be read, or not to its end, the last item is an unreadable input
        named `clip.mp4`; the iterator raises nothing.

    Raises:
        ConfigError: if `every_s` is not positive and finite.
        MissingExtraError: if PyAV is not installed.
    """
    require(0 < every_s < math.inf, f"a frame every {every_s} s: must be positive and finite")
    with needs_extra("av", "video"):
        import av  # noqa: F401
    return _sample(path, every_s, limits)


def _sample(path: str | os.PathLike[str], every_s: float, limits: ImageLimits | None) -> Iterator[NamedImage]:
    name = os.fspath(path)
    try:
        with Video(path, Selection(fps=1 / every_s), limits=limits) as video:
            for frame in video:
                yield NamedImage(f"{name}@{frame.time_s:.3f}s", frame.image_hwc_u8)
            for note in video.notes():
                _log.warning("%s: %s", name, note)
    except ImageError as error:
        yield NamedImage(name, ImageError(str(error).removeprefix(f"{path}: ")))

"""Read a video: upright RGB frames with their times, decoded ahead in a thread, in constant memory.

A frame's `index` is its place, from 0, in the order in which the file's frames are shown, whatever is selected of them,
and whether the frame rate varies or not; a corrupt frame counts too, so that it stays the number an editor shows. Its
`time_s` comes from its presentation time stamp, counted from the start of the file. Rotation and mirroring are applied.
Sound is ignored. What lies before the range that is wanted is not decoded where the file can be searched: reading
begins at the key frame before, whose number is the count of the packets that are shown earlier.

Shape suffixes: h height, w width, c channels.
"""

import dataclasses
import math
import os
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from motivnet.errors import ConfigError, ImageError
from motivnet.images import ImageLimits
from motivnet.video.container import VideoInfo, open_container, picture_stream, upright, video_info
from motivnet.video.read_ahead import read_ahead

if TYPE_CHECKING:
    from av import VideoFrame

__all__ = ["Frame", "Position", "Selection", "Video", "VideoInfo"]

# Frames decoded ahead of the one that is looked at: enough to even out key frames, 22 MB at 1280 x 720.
FRAMES_AHEAD = 8
# Of a frame's time, in seconds: time stamps are fractions, so that the grid of `fps` is met only nearly.
TIME_TOLERANCE_S = 1e-6
# How much earlier than wanted a search may have to begin, in seconds, as files index key frames by decoding time.
SEARCH_BACK_S = (0.0, 1.0, 10.0)
# An end that is so much earlier than the file says, in seconds, is a damage.
MISSING_END_S = 1.0
# Codecs whose packets are not frames one by one: some are references that are never shown.
HIDDEN_FRAMES = ("vp8", "msmpeg4v3", "mpeg1video", "mpeg2video")


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """One frame.

    Args:
        index: its number in the file, from 0.
        time_s: when it is shown, in seconds from the start of the file.
        image_hwc_u8: upright RGB, uint8 (h, w, 3).
        corrupt: frames that could not be decoded before it, from the start that was wanted.
    """

    index: int
    time_s: float
    image_hwc_u8: np.ndarray
    corrupt: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    """A frame that has been seen, after which to go on.

    Args:
        index: its number.
        time_s: its time, in seconds.
        corrupt: corrupt frames up to there.
    """

    index: int
    time_s: float
    corrupt: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which frames of a video are wanted.

    Args:
        stride: each so-many-th frame, counted from the file's first.
        fps: at most so many frames per second, at even times; None takes all. Not together with a stride.
        start_s: first time, in seconds, included.
        end_s: last time, in seconds, not included; None goes to the end.
    """

    stride: int = 1
    fps: float | None = None
    start_s: float = 0.0
    end_s: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: at a value that is out of range.
        """
        if self.stride < 1:
            raise ConfigError(f"stride {self.stride}: must be at least 1")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ConfigError(f"fps {self.fps}: must be positive and finite")
        if self.fps is not None and self.stride != 1:
            raise ConfigError(f"stride {self.stride} and fps {self.fps}: only one of them can be given")
        if not 0 <= self.start_s < math.inf:
            raise ConfigError(f"start {self.start_s} s: must be 0 or more, and finite")
        if self.end_s is not None and not self.end_s > self.start_s:
            raise ConfigError(f"end {self.end_s} s: must be after the start, {self.start_s} s")

    def due_after(self, time_s: float) -> float:
        """Say when the next frame is due after one at `time_s` was taken, in seconds."""
        if self.fps is None:
            return self.start_s
        steps = math.floor((time_s - self.start_s + TIME_TOLERANCE_S) * self.fps) + 1
        return self.start_s + steps / self.fps

    def estimate(self, info: VideoInfo, after: Position | None = None) -> int | None:
        """Estimate how many frames will be given, for a progress bar; None if the file does not tell."""
        if not info.num_frames or not info.fps:
            return None
        end_s = min(self.end_s or math.inf, info.num_frames / info.fps)
        length_s = max(0.0, end_s - max(self.start_s, after.time_s if after else 0.0))
        fps = info.fps / self.stride if self.fps is None else min(self.fps, info.fps)
        return round(length_s * fps)


class Video:
    """A video file that is open; iterate over it once for its frames, and close it.

    Attributes:
        info: what the file says of itself.
        corrupt: frames in the wanted range that could not be decoded, so far; they are skipped.
        decoded: frames that could be decoded, so far, wanted or not.
        damage: what is wrong with the end of the file, once it has been reached; None if nothing is known to be.
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
            selection: which frames are wanted; None takes all.
            after: a frame of an earlier reading of this file with this selection: goes on behind it, as that reading
                would have done.
            limits: sizes of a frame beyond which the video is refused; None takes the defaults. The size of the file
                is not limited.

        Raises:
            ImageError: if the file is missing, no video, has no video stream, or frames beyond the limits.
        """
        self.path = Path(path)
        self.selection = selection or Selection()
        self.corrupt = 0
        self.decoded = 0
        self.damage: str | None = None
        self._after = after
        self._limits = limits or ImageLimits()
        self._lock = threading.Lock()
        self._closed = False
        # Of the frame that was decoded last, or of one that is missing.
        self._index = -1
        self._container = open_container(self.path)
        try:
            self._stream = picture_stream(self.path, self._container)
            self.info = video_info(self._container, self._stream)
            self._check_size(self.info.width, self.info.height)
        except ImageError:
            self._container.close()
            raise
        self._begin_s = (self._container.start_time or 0) / 1_000_000

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; an iteration that is under way ends."""
        with self._lock:
            self._closed = True
            self._container.close()

    def __iter__(self) -> Generator[Frame, None, None]:
        """Give the wanted frames in order, decoded ahead in a thread.

        Raises:
            ImageError: if not one frame can be decoded, or one is beyond the limits.
            ConfigError: if no frame lies in the range of times that is wanted.
        """
        return read_ahead(self._wanted(), FRAMES_AHEAD)

    def _wanted(self) -> Iterator[Frame]:
        wanted = self.selection
        due_s = wanted.due_after(self._after.time_s) if self._after else wanted.start_s
        given, last_s = 0, self._after.time_s if self._after else 0.0
        for index, time_s, frame in self._timed():
            last_s = time_s
            if wanted.end_s is not None and time_s >= wanted.end_s - TIME_TOLERANCE_S:
                break
            if time_s < due_s - TIME_TOLERANCE_S or index % wanted.stride:
                continue
            due_s = wanted.due_after(time_s)
            given += 1
            self._check_size(frame.width, frame.height)
            yield Frame(index, time_s, upright(frame), self.corrupt)
        else:
            self._look_at_the_end(last_s)
        if self._closed or self._after:
            return
        if not self.decoded:
            raise ImageError(f"{self.path}: no frame of the video can be decoded ({self.corrupt} corrupt)")
        if not given:
            upto = "the end" if wanted.end_s is None else f"{wanted.end_s:g} s"
            raise ConfigError(
                f"{self.path}: no frame from {wanted.start_s:g} s to {upto}; the last one seen is at {last_s:g} s"
            )

    def _timed(self) -> "Iterator[tuple[int, float, VideoFrame]]":
        """Give good frames from the start that is wanted, or little before it, with number and time.

        A frame without a time stamp follows its predecessor.
        """
        step_s = 1 / (self.info.fps or 25.0)
        target_s = self._after.time_s if self._after else self.selection.start_s
        frames, before_s = self._reach(target_s), -step_s
        reached = self._after is None
        for frame in frames:
            before_s = before_s + step_s if frame.time is None else self._time(frame)
            if not reached and self._after:
                reached = before_s >= self._after.time_s - TIME_TOLERANCE_S
                self._index, self.corrupt = self._after.index, self._after.corrupt
                continue
            if self._after is None and before_s < target_s - TIME_TOLERANCE_S:
                self.corrupt = 0
            yield self._index, before_s, frame

    def _time(self, frame: "VideoFrame") -> float:
        return max(0.0, float(frame.time) - self._begin_s)

    def _reach(self, time_s: float) -> "Iterator[VideoFrame]":
        """Decode from the last key frame that is not after `time_s`, or from the beginning if that cannot be found."""
        for back_s in SEARCH_BACK_S:
            if time_s <= back_s or not self._seek(time_s - back_s):
                break
            frames = self._frames()
            first = next(frames, None)
            if first is None or first.pts is None or not first.key_frame:
                continue
            index = self._after.index if self._after else self._rank(first.pts)
            if self._time(first) <= time_s + TIME_TOLERANCE_S and index is not None:
                self._index, self.corrupt = index, 0
                yield first
                yield from frames
                return
        if time_s > 0:
            self._reopen()
        yield from self._frames()

    def _seek(self, time_s: float) -> bool:
        """Go to the key frame before; False if this file cannot."""
        import av

        with self._lock:
            if self._closed or not self._stream.time_base:
                return False
            try:
                offset = round((time_s + self._begin_s) / self._stream.time_base)
                self._container.seek(offset, stream=self._stream)
            except av.FFmpegError:
                return False
        return True

    def _rank(self, pts: int) -> int | None:
        """Count the frames shown before the one at `pts`, without decoding; None if the packets do not tell."""
        import av

        if self.info.codec in HIDDEN_FRAMES:
            return None
        rank, known = 0, False
        with open_container(self.path) as container:
            try:
                for packet in container.demux(container.streams[self._stream.index]):
                    if packet.size == 0 or (packet.dts is not None and packet.dts > pts):
                        break
                    if packet.pts is None or packet.is_corrupt:
                        return None
                    rank += packet.pts < pts and not packet.is_discard
                    known = known or packet.pts == pts
            except av.FFmpegError:
                return None
        return rank if known else None

    def _reopen(self) -> None:
        """Begin anew, as not every file that cannot be searched can be wound back."""
        with self._lock:
            if self._closed:
                return
            self._container.close()
            self._container = open_container(self.path)
            self._stream = picture_stream(self.path, self._container)
            self._index, self.corrupt = -1, 0

    def _frames(self) -> "Iterator[VideoFrame]":
        import av

        packets = self._container.demux(self._stream)
        more = True
        while more:
            # A file that is closed in the middle of a call would take the process with it.
            with self._lock:
                if self._closed:
                    return
                try:
                    packet = next(packets, None)
                except av.FFmpegError as error:  # the rest of the file is missing or damaged
                    self.damage = f"cannot be read to its end ({error.strerror or error})"
                    packet = None
                more = packet is not None
                try:
                    # Without a packet the decoder hands out what it still holds.
                    frames = self._stream.decode(packet)
                except EOFError:  # it has been asked for that already
                    frames = []
                except av.FFmpegError:
                    self._miss()
                    frames = []
            for frame in frames:
                if frame.is_corrupt:
                    self._miss()
                else:
                    self.decoded += 1
                    self._index += 1
                    yield frame

    def _miss(self) -> None:
        self.corrupt += 1
        self._index += 1

    def _look_at_the_end(self, last_s: float) -> None:
        """Compare the end that was found with the one that the file speaks of."""
        duration_s = self.info.duration_s
        if self.damage or duration_s is None or not self.info.alone or not self.decoded:
            return
        if duration_s - last_s > MISSING_END_S + 2 / (self.info.fps or 25.0):
            self.damage = f"ends at {last_s:.2f} s, and says that it lasts {duration_s:.2f} s"

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._limits.max_pixels:
            raise ImageError(
                f"{self.path}: frames of {width} x {height} pixels, the limit is {self._limits.max_pixels} in all"
            )

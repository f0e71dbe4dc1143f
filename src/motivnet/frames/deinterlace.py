"""Interlaced frames, whose lines are of two moments, become progressive ones by FFmpeg's filter bwdif."""

import collections
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from av import VideoFrame


# The filter refuses smaller frames.
MIN_SIDE = 4


class Shown(NamedTuple):
    """A frame as it was decoded.

    Attributes:
        index: its position in the file, from 0.
        time_s: when it is shown, in seconds from the start of the file.
        corrupt: number of corrupt frames between the start of the selected range and this frame.
        frame: the frame.
    """

    index: int
    time_s: float
    corrupt: int
    frame: "VideoFrame"


def deinterlace(frames: Iterator[Shown]) -> Iterator[Shown]:
    """Deinterlace the frames that are flagged as interlaced, at their own times; the others pass as they are.

    The result for a frame depends on it and its neighbours alone, wherever reading began.
    """
    bwdif, before = None, None
    for shown in frames:
        frame = shown.frame
        if bwdif and bwdif.form != _form(frame):
            yield from bwdif.add(None, None)
            bwdif = None
        if not bwdif and frame.interlaced_frame and min(frame.width, frame.height) >= MIN_SIDE:
            bwdif = _Bwdif(frame)
            if before and bwdif.form == _form(before):
                yield from bwdif.add(before, None)
        before = frame
        yield from bwdif.add(frame, shown) if bwdif else (shown,)
    if bwdif:
        yield from bwdif.add(None, None)


class _Bwdif:
    """The filter for frames of one form; each comes out when the next one is known."""

    def __init__(self, frame: "VideoFrame") -> None:
        from av.filter import Graph

        self.form = width, height, _ = _form(frame)
        self._waiting: collections.deque[Shown | None] = collections.deque()
        self._graph = Graph()
        source = self._graph.add_buffer(width=width, height=height, format=frame.format, time_base=frame.time_base)
        bwdif = self._graph.add("bwdif", "mode=send_frame:deint=interlaced")
        self._graph.link_nodes(source, bwdif, self._graph.add("buffersink")).configure()

    def add(self, frame: "VideoFrame | None", shown: Shown | None) -> Iterator[Shown]:
        """Add a frame, or None at the end; yield what is done.

        Args:
            frame: the next one.
            shown: what it is yielded as; None if only its neighbour is.
        """
        import av

        self._waiting.append(shown)
        self._graph.push(frame)
        with contextlib.suppress(av.BlockingIOError, av.EOFError):
            while True:
                progressive = self._graph.pull()
                if done := self._waiting.popleft():
                    yield done._replace(frame=progressive)


def _form(frame: "VideoFrame") -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name

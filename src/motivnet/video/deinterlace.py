"""Interlaced frames, whose lines are of two moments, become progressive ones by FFmpeg's filter bwdif."""

import collections
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from av import VideoFrame


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
        if bwdif and not bwdif.fits(shown):
            yield from bwdif.add(None)
            bwdif = None
        if not bwdif and shown.frame.interlaced_frame and min(shown.frame.width, shown.frame.height) >= 4:
            bwdif = _Bwdif(shown.frame)
            if before and bwdif.fits(before):
                bwdif.prime(before)
        before = shown
        if bwdif:
            yield from bwdif.add(shown)
        else:
            yield shown
    if bwdif:
        yield from bwdif.add(None)


class _Bwdif:
    """The filter for frames of one size; each comes out when the next one is known."""

    def __init__(self, frame: "VideoFrame") -> None:
        from av.filter import Graph

        self._form = self._form_of(frame)
        self._waiting: collections.deque[Shown | None] = collections.deque()
        self._graph = Graph()
        width, height, name = self._form
        source = self._graph.add_buffer(width=width, height=height, format=name, time_base=frame.time_base)
        bwdif = self._graph.add("bwdif", "mode=send_frame:deint=interlaced")
        source.link_to(bwdif)
        bwdif.link_to(self._graph.add("buffersink"))
        self._graph.configure()

    @staticmethod
    def _form_of(frame: "VideoFrame") -> tuple[int, int, str]:
        return frame.width, frame.height, frame.format.name

    def fits(self, shown: Shown) -> bool:
        return self._form_of(shown.frame) == self._form

    def prime(self, before: Shown) -> None:
        """Show the filter what came before the first frame."""
        self._waiting.append(None)
        self._graph.push(before.frame)

    def add(self, shown: Shown | None) -> Iterator[Shown]:
        """Add a frame, or None at the end; yield those that are done."""
        import av

        if shown:
            self._waiting.append(shown)
        self._graph.push(shown.frame if shown else None)
        while self._waiting:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            if done := self._waiting.popleft():
                yield done._replace(frame=frame)

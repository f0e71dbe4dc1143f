"""The time of each frame, ascending and unique whatever the file states, so that a place can be found by its time.

Containers state times that start again (joined recordings), repeat or go back, those of decoding alone (AVI), or none.
FFmpeg, and PyAV with it, passes all of them on; only FFmpeg's programs repair some.
"""

import heapq
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Time stamps are fractions: those that differ by less are the same.
TIME_TOLERANCE_S = 1e-6
# FFmpeg's names of containers that state when a frame is decoded; when it is shown is invented there, and wrong.
DECODING_TIMES = ("avi", "asf")
# How far times go back where another recording begins, in seconds; less is inaccuracy.
RESTART_S = 0.1
# Where times may start again, a longer gap is another recording too, in seconds; the same as in FFmpeg's programs.
MAX_GAP_S = 10.0
# Frames that a decoder may hold back, where PyAV before 18 does not state how many.
MAX_REORDER = 16
MAX_FPS = 1000.0


class Clock:
    """Gives each frame its time, in the order in which frames are shown, from one place in a file on.

    Attributes:
        repairs: what was wrong with the times, and what was done.
        continued: times started again, so that the last one says nothing about the duration that the file states.
    """

    def __init__(self, container: "InputContainer", stream: "VideoStream", fps: float | None) -> None:
        """Begin at the start of a file, or at a key frame before which `rank` finds nothing wrong.

        Args:
            container: the file.
            stream: the one whose packets and frames follow.
            fps: mean frames per second; None if unknown.
        """
        from av.format import Flags

        self.repairs: dict[str, None] = {}
        self.continued = False
        self._context, self._time_base = stream.codec_context, stream.time_base or 1
        self._step_s = 1 / min(fps or 25.0, MAX_FPS)
        self._starts = container.start_time is not None
        self._offset_s = -(container.start_time or 0) / 1_000_000
        broadcast = container.format.flags & Flags.ts_discont.value
        self._max_gap_s = MAX_GAP_S if broadcast else math.inf
        # The times of packets are those of decoding: always, or as far as has been read.
        self._only_decoding = container.format.name in DECODING_TIMES
        self._decoding = True
        self._waiting: list[int] = []  # a heap: times of decoding whose frames have not been shown yet
        self._dts: int | None = None
        self._restarted = False
        self._last_s: float | None = None

    def add(self, packet: "Packet") -> None:
        """Take note of a packet before it is decoded."""
        if packet.dts is None:
            return
        self._restarted |= self._dts is not None and packet.dts < self._dts
        self._dts = packet.dts
        self._decoding = self._only_decoding or (self._decoding and packet.pts == packet.dts)
        if self._decoding:
            heapq.heappush(self._waiting, packet.dts)
        else:
            self._waiting.clear()

    def time_s(self, frame: "VideoFrame") -> float:
        """Return when the next frame is shown, in seconds from the start of the file."""
        stated_s, last_s = self._stated(frame), self._last_s
        if stated_s is None:
            self.repairs["missing times were computed from the frame rate"] = None
            time_s = 0.0 if last_s is None else last_s + self._step_s
        else:
            time_s = stated_s + self._offset_s
            if last_s is None:
                if time_s < -TIME_TOLERANCE_S or not self._starts:
                    time_s, self._offset_s = 0.0, -stated_s
                time_s = max(0.0, time_s)
            elif self._begins_anew(time_s - last_s):
                self.repairs["times that start again were continued"] = None
                time_s, self.continued, self._restarted = last_s + self._step_s, True, False
                self._offset_s = time_s - stated_s
            elif time_s <= last_s + TIME_TOLERANCE_S:
                self.repairs["times that repeat or go back were made ascending"] = None
                # Half a step, so that the times that follow catch up.
                time_s = last_s + self._step_s / 2
        self._last_s = time_s
        return time_s

    def _begins_anew(self, change_s: float) -> bool:
        # Where decoding goes on as before, the times alone are wrong.
        back = change_s < -RESTART_S and (self._restarted or self._dts is None)
        return back or change_s > self._max_gap_s

    def _stated(self, frame: "VideoFrame") -> float | None:
        """Return the time that a frame has in the file, in seconds."""
        if self._waiting:
            earliest = heapq.heappop(self._waiting)
            while len(self._waiting) > getattr(self._context, "reorder_depth", MAX_REORDER):
                heapq.heappop(self._waiting)  # of a packet without a frame
            if self._context.has_b_frames and earliest != frame.pts:
                self.repairs["times of decoding were put in the order of showing"] = None
                return float(earliest * self._time_base)
        return frame.time

    def rank(self, packets: Iterable["Packet"], pts: int, pos: int | None) -> int | None:
        """Count the frames that are shown before one, by packets and without decoding.

        Args:
            packets: of the file, from its beginning.
            pts: time stamp of that frame's packet.
            pos: position of that packet in the file, in bytes.

        Returns:
            None if the packets do not show it, or the times before that frame are not those that this clock would give.
        """
        # Packets in the order of showing, where that of decoding is another, have the times of decoding.
        dts, last_pts, ordered, found = None, -math.inf, not self._context.has_b_frames, False
        shown: set[int] = set()
        if pos is None or not self._starts or (self._only_decoding and not ordered):
            return None
        for packet in packets:
            if packet.size == 0 or (packet.dts is not None and packet.dts > pts):
                break
            if packet.pts is None or packet.is_corrupt or packet.pts in shown:
                return None
            if packet.dts is not None:
                if dts is not None and not 0 < (packet.dts - dts) * self._time_base <= self._max_gap_s:
                    return None
                dts = packet.dts
            ordered |= packet.pts < last_pts
            last_pts = packet.pts
            if packet.pts == pts:
                found = packet.pos == pos
            if not packet.is_discard:
                if packet.pts * self._time_base + self._offset_s < -TIME_TOLERANCE_S:
                    return None
                shown.add(packet.pts)
        return sum(each < pts for each in shown) if found and ordered else None

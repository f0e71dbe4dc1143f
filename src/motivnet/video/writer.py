"""Write a video: H.264 in MP4, at the times of the frames it was made of, in constant memory; pieces can be joined.

Shape suffixes: h height, w width, c channels.
"""

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

import numpy as np

from motivnet.errors import OutputError

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

CODEC = "libx264"
# Fine enough for any frame rate, and MP4's usual one.
TIME_BASE = Fraction(1, 90_000)
# No frames that refer to later ones: decoding order is then the order of showing, and pieces join without a gap.
OPTIONS = {"preset": "veryfast", "crf": "22", "bf": "0"}
# ITU-R BT.709, and the narrow range of values: what players take a video for.
BT709, NARROW = 1, 1


class VideoWriter:
    """A video file that is being written."""

    def __init__(self, path: Path, size: tuple[int, int], *, fps: float | None = None) -> None:
        """Open a file; it is a video once it has been closed.

        Args:
            path: the file, .mp4; replaced if it exists.
            size: (height, width) of the frames, in pixels; an odd side loses its last row or column.
            fps: about how many frames per second will come; None if unknown.

        Raises:
            OutputError: if it cannot be written.
        """
        import av

        self.path = path
        self._height, self._width = (max(2, side - side % 2) for side in size)
        self._last = -1
        try:
            self._container: OutputContainer = av.open(os.fspath(path), "w", format="mp4")
            stream = self._container.add_stream(CODEC, rate=round(fps or 25) or 1, options=dict(OPTIONS))
        except (av.FFmpegError, ValueError) as error:
            raise OutputError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
        self._stream: VideoStream = cast("VideoStream", stream)
        self._stream.width, self._stream.height, self._stream.pix_fmt = self._width, self._height, "yuv420p"
        # Threads by slice, PyAV's default, spend more bits.
        self._stream.thread_type = "FRAME"
        context = self._stream.codec_context
        context.time_base = TIME_BASE
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = NARROW

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def write(self, image_hwc_u8: np.ndarray, time_s: float) -> None:
        """Add a frame.

        Args:
            image_hwc_u8: RGB, uint8 (h, w, 3); enlarged or shrunk if it is not of the video's size.
            time_s: when it is shown, in seconds from the start of this file; later than the frame before.

        Raises:
            OutputError: if it cannot be written.
        """
        import av

        height, width = image_hwc_u8.shape[:2]
        if (height - height % 2, width - width % 2) != (self._height, self._width):
            import cv2

            image_hwc_u8 = cv2.resize(image_hwc_u8, (self._width, self._height), interpolation=cv2.INTER_AREA)
        image_hwc_u8 = np.ascontiguousarray(image_hwc_u8[: self._height, : self._width])
        frame = av.VideoFrame.from_ndarray(image_hwc_u8, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=NARROW)
        self._last = max(self._last + 1, round(time_s / TIME_BASE))
        frame.pts, frame.time_base = self._last, TIME_BASE
        try:
            self._container.mux(self._stream.encode(frame))
        except av.FFmpegError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror or error}") from None

    def close(self) -> None:
        """Finish the file.

        Raises:
            OutputError: if it cannot be written.
        """
        import av

        try:
            if self._last >= 0:
                self._container.mux(self._stream.encode(None))
            self._container.close()
        except av.FFmpegError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror or error}") from None


def join_videos(pieces: Sequence[tuple[Path, float]], target: Path) -> None:
    """Put pieces of `VideoWriter` one behind the other, without encoding anew.

    Args:
        pieces: files, and when their first frames are shown, in seconds from the start of the whole.
        target: the file, MP4 whatever its name; replaced if it exists.

    Raises:
        OutputError: if it cannot be written.
    """
    import av

    try:
        # The index goes to the front, so that a player can begin before it has all of the file.
        with av.open(os.fspath(target), "w", format="mp4", options={"movflags": "faststart"}) as whole:
            stream = None
            for path, start_s in pieces:
                with av.open(os.fspath(path)) as piece:
                    source = piece.streams.video[0]
                    stream = stream or whole.add_stream_from_template(source, opaque=True)
                    offset = round(start_s / (source.time_base or TIME_BASE))
                    for packet in piece.demux(source):
                        if packet.dts is None or packet.pts is None:
                            continue  # the end
                        packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                        packet.stream = stream
                        whole.mux(packet)
    except av.FFmpegError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from None

"""Write a video: H.264 in MP4, each frame at its time, in constant memory.

Shape suffixes: h height, w width, c channels.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from motivnet.storage import atomic_path

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video.stream import VideoStream

CODEC, PIXELS = "libx264", "yuv420p"
# Fine enough for any frame rate, and MP4's usual one.
TIME_BASE = Fraction(1, 90_000)
# Without B frames, decoding order is display order.
OPTIONS = {"preset": "veryfast", "crf": "22", "bf": "0"}
# ITU-R BT.709 in limited range, which players assume.
BT709, LIMITED_RANGE = 1, 1


@contextlib.contextmanager
def write_video(path: Path, *, fps: float | None = None) -> Iterator[Callable[["VideoFrame", float], None]]:
    """Give a function that appends a frame; the file appears, complete, at the end of the block.

    The function takes a frame of `encodable` and its time in seconds; the video begins with the first frame, and later
    ones are resized to it. Without a frame nothing is written.

    Args:
        path: an .mp4 file; replaced if it exists.
        fps: approximate frames per second, if known.

    Raises:
        OutputError: if it cannot be written.
    """
    from av import FFmpegError
    from av.codec.codec import UnknownCodecError

    encoder: _Encoder | None = None
    with contextlib.ExitStack() as stack:

        def write(frame: "VideoFrame", time_s: float) -> None:
            nonlocal encoder
            if encoder is None:
                unfinished = stack.enter_context(atomic_path(path, parents=True, also=(FFmpegError, UnknownCodecError)))
                encoder = _Encoder(unfinished, max(2, frame.width), max(2, frame.height), fps, time_s)
                stack.callback(encoder.close)
            encoder.write(frame, time_s)

        yield write


def encodable(image_hwc_u8: np.ndarray) -> "VideoFrame":
    """Convert an RGB image, uint8 (h, w, 3), for `write_video`; an odd side loses its last row or column."""
    import av

    height, width = (max(2, side - side % 2) for side in image_hwc_u8.shape[:2])
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image_hwc_u8[:height, :width]), format="rgb24")
    return frame.reformat(format=PIXELS, dst_colorspace=BT709, dst_color_range=LIMITED_RANGE)


class _Encoder:
    def __init__(self, path: Path, width: int, height: int, fps: float | None, start_s: float) -> None:
        import av

        self._start_s, self._last = start_s, -1
        # With the index at the front, playback can begin before the whole file is loaded.
        self._container = av.open(os.fspath(path), "w", format="mp4", options={"movflags": "faststart"})
        stream = self._container.add_stream(CODEC, rate=round(fps or 25) or 1, options=dict(OPTIONS))
        self._stream: VideoStream = cast("VideoStream", stream)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, PIXELS
        # Threads by slice, PyAV's default, spend more bits.
        self._stream.thread_type = "FRAME"
        context = self._stream.codec_context
        context.time_base = TIME_BASE
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE

    def write(self, frame: "VideoFrame", time_s: float) -> None:
        frame = frame.reformat(self._stream.width, self._stream.height)
        # Time stamps must increase.
        self._last = max(self._last + 1, round((time_s - self._start_s) / TIME_BASE))
        frame.pts, frame.time_base = self._last, TIME_BASE
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()

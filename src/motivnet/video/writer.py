"""Write a video: H.264 in MP4, each frame at its time, with the sound of another file, in constant memory.

Shape suffixes: h height, w width, c channels.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from motivnet.frames.container import open_container
from motivnet.storage import atomic_path

if TYPE_CHECKING:
    from av import AudioFrame, VideoFrame
    from av.audio.stream import AudioStream
    from av.video.stream import VideoStream

CODEC, PIXELS = "libx264", "yuv420p"
# Fine enough for any frame rate, and MP4's usual one.
TIME_BASE = Fraction(1, 90_000)
# Without B frames, decoding order is display order.
OPTIONS = {"preset": "veryfast", "crf": "22", "bf": "0"}
# ITU-R BT.709 in limited range, which players assume.
BT709, LIMITED_RANGE = 1, 1
# Every player of MP4 takes it; any sound is converted to it.
SOUND_CODEC, SOUND_HZ = "aac", 48_000


@contextlib.contextmanager
def write_video(
    path: Path, *, fps: float | None = None, sound: Path | None = None
) -> Iterator[Callable[["VideoFrame", float], None]]:
    """Give a function that appends a frame; the file appears, complete, at the end of the block.

    The function takes a frame of `encodable` and its time in seconds; the video begins with the first frame, and later
    ones are resized to it. Without a frame nothing is written.

    Args:
        path: an .mp4 file; replaced if it exists.
        fps: approximate frames per second, if known.
        sound: a file whose sound is added, as long as there are frames; times count from its start.

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
                encoder = _Encoder(unfinished, max(2, frame.width), max(2, frame.height), fps, time_s, sound)
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
    def __init__(
        self, path: Path, width: int, height: int, fps: float | None, start_s: float, sound: Path | None
    ) -> None:
        import av

        self._start_s, self._last, self._frame_s = start_s, -1, 1 / (fps or 25)
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
        self._sound = iter(()) if sound is None else _sound(sound, start_s)
        self._heard, self._audio = next(self._sound, None), None
        if self._heard is not None:
            layout = "mono" if self._heard.layout.nb_channels == 1 else "stereo"
            self._audio = cast("AudioStream", self._container.add_stream(SOUND_CODEC, rate=SOUND_HZ, layout=layout))

    def write(self, frame: "VideoFrame", time_s: float) -> None:
        frame = frame.reformat(self._stream.width, self._stream.height)
        # Time stamps must increase.
        self._last = max(self._last + 1, round((time_s - self._start_s) / TIME_BASE))
        frame.pts, frame.time_base = self._last, TIME_BASE
        self._container.mux(self._stream.encode(frame))
        until_s = float(self._last * TIME_BASE) + self._frame_s
        while self._audio and self._heard is not None and (self._heard.time or 0) < until_s:
            self._container.mux(self._audio.encode(self._heard))
            self._heard = next(self._sound, None)

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))
        if self._audio:
            self._container.mux(self._audio.encode(None))
        self._container.close()


def _sound(path: Path, start_s: float) -> "Iterator[AudioFrame]":
    """Yield the sound of a file from a time on; times count from there. It ends where it is damaged."""
    from av import FFmpegError

    with contextlib.suppress(FFmpegError), open_container(path) as container:
        begin_s = (container.start_time or 0) / 1_000_000 + start_s
        if start_s:
            container.seek(round(begin_s * 1_000_000))
        for frame in container.decode(audio=0) if container.streams.audio else ():
            if frame.time is not None and frame.time >= begin_s:
                frame.pts, frame.time_base = round((frame.time - begin_s) / TIME_BASE), TIME_BASE
                yield frame

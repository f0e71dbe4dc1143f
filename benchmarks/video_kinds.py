"""Make small videos of many kinds whose frames show their own number, and whose times are known.

The tests of the reader and the campaign use them: 30 frames of 64 x 48 pixels, in which five bars are the binary digits
of the frame's number, at 25 frames a second, with a key frame every 8 and B frames where the codec has them.
"""

import dataclasses
import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

FRAMES, FPS, WIDTH, HEIGHT, BITS = 30, 25, 64, 48, 5
MILLISECOND = Fraction(1, 1000)
STEP_MS = 1000 // FPS
EVEN_MS = tuple(STEP_MS * number for number in range(FRAMES))
UNEVEN_MS = tuple(time + 7 * (number % 3) + 800 * (number > 12) for number, time in enumerate(EVEN_MS))
# Of the codecs with them: two or three B frames in a row.
OPTIONS = {
    "libx264": {"bf": "3", "b-adapt": "0", "preset": "veryfast", "sc_threshold": "0", "threads": "1"},
    "libx265": {"x265-params": "log-level=none:keyint=8:bframes=2:pools=none:frame-threads=1", "preset": "ultrafast"},
    "libvpx": {"auto-alt-ref": "1", "lag-in-frames": "8", "deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "8"},
    "mpeg4": {"bf": "2", "sc_threshold": "1000000000"},
    "mpeg2video": {"bf": "2", "sc_threshold": "1000000000"},
}
PIXELS = {"mjpeg": "yuvj420p", "ffv1": "yuv420p", "gif": "rgb8"}


def picture(number: int) -> np.ndarray:
    """Draw a number as bars: RGB, uint8 (h, w, 3)."""
    image_hwc_u8 = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            image_hwc_u8[:, 2 + 12 * bit : 14 + 12 * bit] = 220
    return image_hwc_u8


def number_of(image_hwc_u8: np.ndarray) -> int:
    """Read the number off a picture of any size."""
    scale = image_hwc_u8.shape[1] / WIDTH
    middles = [round((8 + 12 * bit) * scale) for bit in range(BITS)]
    grey = image_hwc_u8[image_hwc_u8.shape[0] // 3 : -10].mean(axis=(0, 2))
    return sum(int(grey[x - 1 : x + 2].mean() > 125) << bit for bit, x in enumerate(middles))


def write(
    path: Path,
    codec: str,
    *,
    numbers: Iterable[int] = range(FRAMES),
    times_ms: Sequence[int] = EVEN_MS,
    even: bool = True,
    container: str | None = None,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    draw: Callable[[int], np.ndarray] = picture,
    **attributes: Any,
) -> Path:
    """Write a video.

    Args:
        path: the file.
        codec: FFmpeg's name of the encoder.
        numbers: that the frames show.
        times_ms: when they are shown, in milliseconds.
        even: give the encoder times in 25ths of a second, which some codecs insist on.
        container: FFmpeg's name of its format; None goes by the suffix.
        options: of the encoder, beside `OPTIONS`.
        muxer: options of the container.
        draw: a picture by number.
        **attributes: set on the codec context.
    """
    base = Fraction(1, FPS) if even else MILLISECOND
    with av.open(str(path), "w", format=container, options=muxer or {}) as file:
        stream = file.add_stream(codec, rate=FPS, options=OPTIONS.get(codec, {}) | (options or {}))
        stream.height, stream.width = draw(0).shape[:2]
        stream.pix_fmt = PIXELS.get(codec, "yuv420p")
        stream.codec_context.gop_size, stream.codec_context.time_base = 8, base
        stream.bit_rate = 2_000_000
        for name, value in attributes.items():
            setattr(stream.codec_context, name, value)
        for number, time_ms in zip(numbers, times_ms, strict=False):
            frame = av.VideoFrame.from_ndarray(draw(number), format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = round(time_ms * MILLISECOND / base), base
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def remux(source: Path, path: Path, *, shift_ms: int = 0, change: Callable[[Any], Any] | None = None, **open_: Any) -> Path:
    """Copy packets into another file, later by `shift_ms`, or as `change` alters them."""
    with av.open(str(source)) as file, av.open(str(path), "w", **open_) as to:
        stream = to.add_stream_from_template(file.streams.video[0], opaque=True)
        for packet in file.demux(video=0):
            if packet.dts is None:
                continue
            shift = round(shift_ms * MILLISECOND / packet.time_base)
            packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
            if change:
                change(packet)
            packet.stream = stream
            to.mux(packet)
    return path


def join(path: Path, *parts: Path) -> Path:
    """Write files one behind the other, as recorders and `cat` do."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of file.

    Args:
        name: of the file.
        make: writes the file of a path.
        times_ms: when its frames are shown, in milliseconds from the first.
        tolerance_ms: precision of the container's times.
        note: part of what is said about it; empty if nothing is.
        numbers: that its frames show.
    """

    name: str
    make: Callable[[Path], object]
    times_ms: Sequence[float] = EVEN_MS
    tolerance_ms: float = 1.0
    note: str = ""
    numbers: Sequence[int] = tuple(range(FRAMES))


def _halves(path: Path, codec: str, container: str | None = None, **settings: Any) -> tuple[Path, Path]:
    first, second = (path.with_name(f"{path.name}.{half}") for half in "ab")
    write(first, codec, numbers=range(15), container=container, **settings)
    write(second, codec, numbers=range(15, FRAMES), container=container, **settings)
    return first, second


def joined(codec: str, container: str, **settings: Any) -> Callable[[Path], object]:
    """Return what writes two recordings one behind the other, each of which begins at its own time 0."""
    return lambda path: join(path, *_halves(path, codec, container, **settings))


def plain(codec: str, **settings: Any) -> Callable[[Path], object]:
    """Return what writes a file that has nothing wrong."""
    return lambda path: write(path, codec, **settings)


CONTINUED, ORDERED, COMPUTED = "times that start again", "times of decoding", "missing times"
ASCENDING, INTERLACED = "repeat or go back", "interlaced"

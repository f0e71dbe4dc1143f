"""Make small videos of many kinds whose frames show their own number, and whose times are known.

The tests of the reader and the campaign use them: 30 frames of 64 x 48 pixels, in which five bars are the binary digits
of the frame's number, at 25 frames a second, with a key frame every 8 and B frames where the codec has them.
"""

import dataclasses
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
    # Negative: with 8 it would depend on the load of the machine how carefully a frame is encoded.
    "libvpx": {"auto-alt-ref": "1", "lag-in-frames": "8", "deadline": "realtime", "cpu-used": "-8"},
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
        stream: Any = file.add_stream(codec, rate=FPS, options=OPTIONS.get(codec, {}) | (options or {}))
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


def remux(
    source: Path, path: Path, *, shift_ms: int = 0, change: Callable[[Any], Any] | None = None, **open_: Any
) -> Path:
    """Copy packets into another file, later by `shift_ms`, or as `change` alters them."""
    with av.open(str(source)) as file, av.open(str(path), "w", **open_) as to:
        stream = to.add_stream_from_template(file.streams.video[0], opaque=True)
        packet: Any
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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of file, whose frames show their numbers, 0 to 29.

    Args:
        name: of the file.
        make: writes the file of a path.
        times_ms: when its frames are shown, in milliseconds from the first.
        tolerance_ms: precision of the container's times.
        note: part of what is said about it; empty if nothing is.
    """

    name: str
    make: Callable[[Path], object]
    times_ms: Sequence[float] = EVEN_MS
    tolerance_ms: float = 1.0
    note: str = ""


def joined(codec: str, container: str, *, first_ms: int = 0, **settings: Any) -> Callable[[Path], object]:
    """Return what writes two recordings one behind the other; the first begins at a time, the second at 0."""

    def make(path: Path) -> None:
        first, second = (path.with_name(f"{path.name}.{half}") for half in "ab")
        begins_ms = [first_ms + time for time in EVEN_MS]
        write(first, codec, numbers=range(15), times_ms=begins_ms, container=container, **settings)
        write(second, codec, numbers=range(15, FRAMES), container=container, **settings)
        path.write_bytes(first.read_bytes() + second.read_bytes())

    return make


def plain(codec: str, **settings: Any) -> Callable[[Path], object]:
    """Return what writes a file that has nothing wrong."""
    return lambda path: write(path, codec, **settings)


CONTINUED, ORDERED, COMPUTED = "times that start again", "times of decoding", "missing times"
ASCENDING, INTERLACED = "repeat or go back", "interlaced"


HALF_MS = EVEN_MS[15]


def _remuxed(codec: str, *, shift_ms: int = 0, change: Callable[[Any], Any] | None = None, **settings: Any) -> Any:
    def make(path: Path) -> None:
        source = write(path.with_name(f"{path.name}.mp4"), codec, **settings)
        remux(source, path, shift_ms=shift_ms, change=change)

    return make


def _gap(packet: Any) -> None:
    if packet.dts * packet.time_base * 1000 >= HALF_MS:
        packet.pts, packet.dts = (at + round(20 / packet.time_base) for at in (packet.pts, packet.dts))


def _repeat(packet: Any) -> None:
    if round(packet.pts * packet.time_base * FPS) == 11:
        packet.pts = packet.dts = packet.pts - round(1 / FPS / packet.time_base)


def _wrap(path: Path) -> None:
    """Begin half a second before the 33 bits of a transport stream's clock overflow; FFmpeg's muxer adds 1.4 s."""
    offset_s = 2**33 / 90_000 - 0.5 - 1.4
    source = write(path.with_name(f"{path.name}.mp4"), "libx264")
    remux(source, path, options={"output_ts_offset": str(offset_s), "avoid_negative_ts": "disabled"})


def _packed(path: Path) -> None:
    """Pack each B frame into the packet of the frame before, followed by an empty one, as DivX and Xvid do in AVI."""
    start, empty = b"\0\0\1\xb6", b"\0\0\1\xb6\x50\0"
    with av.open(str(write(path.with_name(f"{path.name}.avi"), "mpeg4", options={"bf": "1"}))) as source:
        packets: list[bytes] = []
        for data in map(bytes, source.demux(video=0)):
            if data and data[data.index(start) + 4] >> 6 == 2:  # a B frame
                packets[-1:] = [packets[-1] + data, empty]
            elif data:
                packets.append(data)
        at = packets[0].index(start)
        packets[0] = packets[0][:at] + b"\0\0\1\xb2DivX503b1393p" + packets[0][at:]
        with av.open(str(path), "w") as to:
            stream = to.add_stream_from_template(source.streams.video[0], opaque=True)
            for number, data in enumerate(packets):
                packet = av.Packet(data)
                packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, FPS), number, number
                packet.is_keyframe = not number
                to.mux(packet)


TOP_FIRST = {"x264-params": "tff=1"}
KINDS = (
    Kind(name="b-frames.mp4", make=plain("libx264")),
    Kind(name="uneven.mp4", make=plain("libx264", times_ms=UNEVEN_MS, even=False), times_ms=UNEVEN_MS),
    Kind(name="fragments.mp4", make=plain("libx264", muxer={"movflags": "frag_keyframe+empty_moov"})),
    Kind(name="b-frames.mov", make=plain("libx265")),
    Kind(name="uneven.mkv", make=plain("libx264", times_ms=UNEVEN_MS, even=False), times_ms=UNEVEN_MS),
    Kind(name="late.mkv", make=_remuxed("libx264", shift_ms=5000)),
    Kind(
        name="repeat.mkv",
        make=_remuxed("mjpeg", change=_repeat),
        times_ms=[*EVEN_MS[:11], 420, *EVEN_MS[12:]],
        note=ASCENDING,
    ),
    Kind(name="joined.mkv", make=joined("libx264", "matroska"), note=CONTINUED),
    Kind(name="late.webm", make=_remuxed("libvpx-vp9", shift_ms=5000)),
    Kind(name="vp8.webm", make=plain("libvpx")),
    Kind(name="plain.avi", make=plain("mpeg4", options={"bf": "0"})),
    Kind(name="b-frames.avi", make=plain("mpeg4"), note=ORDERED),
    Kind(name="h264.avi", make=plain("libx264"), note=ORDERED),
    Kind(name="packed.avi", make=_packed, note=ORDERED),
    Kind(name="b-frames.ts", make=plain("libx264")),
    Kind(name="joined.ts", make=joined("libx264", "mpegts"), note=CONTINUED),
    Kind(name="joined-mpeg2.ts", make=joined("mpeg2video", "mpegts"), note=CONTINUED),
    Kind(name="joined-later-first.ts", make=joined("libx264", "mpegts", first_ms=1_000_000), note=CONTINUED),
    Kind(name="gap.mkv", make=_remuxed("mjpeg", change=_gap), times_ms=[t + 20_000 * (t >= HALF_MS) for t in EVEN_MS]),
    Kind(name="gap.ts", make=_remuxed("libx264", change=_gap, options={"bf": "0"}), note=CONTINUED),
    Kind(name="wrapped.ts", make=_wrap),
    Kind(name="interlaced.ts", make=joined("libx264", "mpegts", options=TOP_FIRST), note=INTERLACED),
    Kind(name="b-frames.mpg", make=plain("mpeg2video")),
    Kind(name="joined.mpg", make=joined("mpeg2video", "mpeg"), note=CONTINUED),
    Kind(name="interlaced.mpg", make=plain("mpeg2video", options={"flags": "+ildct+ilme"}), note=INTERLACED),
    Kind(name="b-frames.vob", make=plain("mpeg2video")),
    Kind(name="b-frames.mxf", make=plain("mpeg2video")),
    Kind(name="interlaced.mp4", make=plain("libx264", options=TOP_FIRST), note=INTERLACED),
    Kind(name="late.wmv", make=plain("wmv2", times_ms=[5000 + time for time in EVEN_MS])),
    Kind(name="b-frames.flv", make=plain("libx264")),
    Kind(name="b-frames.asf", make=plain("mpeg4"), note=ORDERED),
    Kind(name="vp8.ogg", make=plain("libvpx")),
    Kind(name="b-frames.nut", make=plain("libx264")),
    Kind(name="all.gif", make=plain("gif"), tolerance_ms=10),
    Kind(name="without-times.h264", make=plain("libx264"), note=COMPUTED),
    Kind(name="without-start.m2v", make=plain("mpeg2video")),
    Kind(name="joined.m4v", make=joined("mpeg4", "m4v"), note=CONTINUED),
)

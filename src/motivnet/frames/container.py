"""PyAV below the reader: open a file, choose its video stream, turn frames into upright pictures.

Shape suffixes: h height, w width, c channels.
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from motivnet.errors import ImageError, require

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

# FFmpeg's names of the containers that are read. Others may open more files or hosts (playlists), or render text.
CONTAINERS = (
    *("mov", "mp4", "matroska", "webm", "avi", "mpeg", "mpegts", "mpegvideo", "flv", "asf", "ogg", "mxf", "nut"),
    *("dv", "gif", "apng", "h264", "hevc", "m4v", "ivf", "mjpeg", "rm", "wtv"),
)
# Of these, the ones whose duration counts from time 0, wherever the video begins.
DURATION_FROM_ZERO = ("matroska,webm", "asf", "nut")
# Transfer characteristics of HDR, numbered by ITU-T H.273: PQ and HLG; and those of BT.709, with its primaries.
HDR, BT709 = (16, 18), 1
# Pixels less oblong than this are square: the ratio is a rounded one.
MIN_SQUEEZE = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """What the file states about its video. It may be wrong, and nothing relies on it.

    Args:
        width: of a frame before rotation, in pixels.
        height: of a frame before rotation, in pixels.
        fps: mean frames per second; None if unknown.
        num_frames: frames in the file; None if unknown.
        duration_s: in seconds; None if unknown.
        codec: name of the codec.
        alone: `duration_s` is that of the video stream, not of sound that may be longer.
        pixel_aspect: width of a pixel divided by its height.
        hdr: the brightness is coded as in HDR.
    """

    width: int
    height: int
    fps: float | None
    num_frames: int | None
    duration_s: float | None
    codec: str
    alone: bool = True
    pixel_aspect: float = 1.0
    hdr: bool = False

    def notes(self) -> Iterator[str]:
        """Yield what is special about the pictures, and what is done about it."""
        if self.pixel_aspect != 1:
            yield f"pixels of {self.pixel_aspect:.4g}:1 were made square"
        if self.hdr:
            yield f"HDR was {'tone mapped' if _maps_tones() else 'not tone mapped, which needs PyAV 17'}"


def _maps_tones() -> bool:
    import av

    return hasattr(av.VideoFrame, "color_trc")


def open_container(path: Path) -> "InputContainer":
    """Open a file that is one of `CONTAINERS`, whatever its name; no other file is opened for it.

    Raises:
        ImageError: if it is missing, empty, a folder, or not a video.
    """
    import av

    require(not path.is_dir(), f"{path}: is a folder, not a video", ImageError)
    require(path.exists(), f"{path}: no such file", ImageError)
    require(path.is_file(), f"{path}: is neither a file nor a folder", ImageError)
    require(path.stat().st_size, f"{path}: the file is empty", ImageError)
    options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
    # Titles need not be UTF-8: PyAV before 19 needs an argument to accept them, and 19 no longer has it.
    lenient: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
    try:
        return av.open(os.fspath(path.absolute()), options=options, **lenient)
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{path}: not a video in a format that can be read ({reason})") from None


def video_stream(path: Path, container: "InputContainer") -> "VideoStream":
    """Return the first stream of moving pictures.

    Raises:
        ImageError: if there is none, or none that can be decoded.
    """
    import av.stream

    # The cover of a song is a video stream too.
    moving = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not moving:
        kinds = ", ".join(stream.type for stream in container.streams) or "none"
        raise ImageError(f"{path}: the file has no video stream (streams: {kinds})")
    stream = moving[0]
    require(stream.codec_context is not None, f"{path}: no decoder for the video stream", ImageError)
    # Frame threading reports a corrupt frame some packets late, and drops good ones with it at the end.
    stream.thread_type = "SLICE"
    return stream


def video_info(container: "InputContainer", stream: "VideoStream") -> VideoInfo:
    """Return what the file states about its video."""
    from av.format import Flags

    # Where no frame has a time, the mean is a guess of FFmpeg's.
    rate = stream.guessed_rate if container.format.flags & Flags.no_timestamps.value else stream.average_rate
    fps = float(rate) if rate else None
    duration_s = None if container.duration is None else container.duration / 1_000_000
    if stream.duration and stream.time_base:
        duration_s = float(stream.duration * stream.time_base)
    if duration_s and container.format.name in DURATION_FROM_ZERO:
        duration_s -= (container.start_time or 0) / 1_000_000
    context, aspect = stream.codec_context, float(stream.sample_aspect_ratio or 1)
    return VideoInfo(
        width=context.width,
        height=context.height,
        fps=fps,
        num_frames=stream.frames or (round(duration_s * fps) if duration_s and fps else None),
        duration_s=duration_s,
        codec=context.name,
        alone=len(container.streams) == 1 or bool(stream.duration),
        pixel_aspect=aspect if aspect > 0 and abs(aspect - 1) > MIN_SQUEEZE else 1.0,
        hdr=context.color_trc in HDR,
    )


def shown_size(frame: "VideoFrame", pixel_aspect: float) -> tuple[int, int]:
    """Return (width, height) of a frame with square pixels, before rotation; the shorter side of a pixel grows."""
    return round(frame.width * max(1.0, pixel_aspect)), round(frame.height / min(1.0, pixel_aspect))


def upright(frame: "VideoFrame", pixel_aspect: float, reformatter: "VideoReformatter") -> np.ndarray:
    """Convert to RGB, uint8 (h, w, 3), rotated and mirrored as the file states, in steps of 90 degrees.

    Pixels become square, and HDR becomes SDR: what is brighter than its reference white is clipped.

    Args:
        frame: as it was decoded.
        pixel_aspect: width of a pixel divided by its height.
        reformatter: the same for all frames of a video, as its tables for HDR take seconds to compute.
    """
    options: dict[str, Any] = dict(zip(("width", "height"), shown_size(frame, pixel_aspect), strict=True))
    if getattr(frame, "color_trc", None) in HDR:
        options |= {"dst_color_trc": BT709, "dst_color_primaries": BT709}
    # Before PyAV 17, the frame's own colour space and range count only where a change is asked for; RGB has no matrix.
    options |= {"format": "rgb24", "dst_colorspace": "ITU601", "src_color_range": frame.color_range}
    image_hwc_u8 = reformatter.reformat(frame, **options).to_ndarray()
    # `frame.rotation` leaves out mirroring.
    data = cast(Any, frame.side_data).get("DISPLAYMATRIX")
    if data is not None:
        a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).tolist()
        transpose, left_right, up_down = orientation((a, b, c, d))
        if transpose:
            image_hwc_u8 = image_hwc_u8.transpose(1, 0, 2)
        image_hwc_u8 = image_hwc_u8[:: -1 if up_down else 1, :: -1 if left_right else 1]
    return np.ascontiguousarray(image_hwc_u8)


def orientation(matrix: tuple[int, int, int, int]) -> tuple[bool, bool, bool]:
    """Return how to make a frame upright: transpose it, then flip it left to right, and upside down.

    Args:
        matrix: (a, b, c, d) of the display matrix: a pixel at (x, y) is shown at (a x + c y, b x + d y).
    """
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, c < 0, b < 0
    return False, a < 0, d < 0

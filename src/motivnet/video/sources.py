"""Frames of a video as inputs of `Predictor`: photographs, with nothing that connects them."""

import importlib.util
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from motivnet.errors import ConfigError, ImageError, MissingExtraError

if TYPE_CHECKING:
    from motivnet.images import ImageLimits, NamedImage

# By which a video is known among photographs; an animation counts as the photograph that is its first frame.
VIDEO_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)


def is_video(path: str | os.PathLike[str]) -> bool:
    """Tell by its name whether a file is a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def frames_of(
    path: str | os.PathLike[str], *, every_s: float = 1.0, limits: "ImageLimits | None" = None
) -> "Iterator[NamedImage]":
    """Give frames of a video, one at a time, for `Predictor.stream`: photographs, with nothing that connects them.

    Args:
        path: the file.
        every_s: time from one frame to the next, in seconds.
        limits: of a frame; None takes the defaults.

    Returns:
        Frames named `clip.mp4@12.000s`, by their times. What cannot be read of the video is one more input, named
        `clip.mp4`, that is unreadable: nothing is raised while the frames come.

    Raises:
        ConfigError: if `every_s` is not positive and finite.
        MissingExtraError: if PyAV is not installed.
    """
    if not 0 < every_s < math.inf:
        raise ConfigError(f"a frame every {every_s} s: must be positive and finite")
    if importlib.util.find_spec("av") is None:
        raise MissingExtraError("av", "video")
    return _frames(path, every_s, limits)


def _frames(path: str | os.PathLike[str], every_s: float, limits: "ImageLimits | None") -> "Iterator[NamedImage]":
    from motivnet.images import NamedImage
    from motivnet.video.reader import Selection, Video

    name = os.fspath(path)
    try:
        with Video(path, Selection(fps=1 / every_s), limits=limits) as video:
            for frame in video:
                yield NamedImage(f"{name}@{frame.time_s:.3f}s", frame.image_hwc_u8)
    except ImageError as error:
        yield NamedImage(name, ImageError(str(error).removeprefix(f"{path}: ")))

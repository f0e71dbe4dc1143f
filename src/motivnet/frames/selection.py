"""Which files are videos, and which of their frames are read. Imports nothing heavy: `--help` reads it."""

import dataclasses
import math
import os
from pathlib import Path

from motivnet.config import check_bounds, setting
from motivnet.errors import ConfigError, require

# Animations are not among them: each counts as the photograph that is its first frame.
VIDEO_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which frames of a video are processed. Times are in seconds.

    Args:
        stride: Process every N-th frame, counted from the start of the file.
        fps: Process at most this many frames per second; not with --stride.
        start_s: Start of the range to process, included.
        end_s: End of the range to process, excluded.
    """

    stride: int = setting(1, min=1)
    fps: float | None = setting(None)
    start_s: float = setting(0.0, flag="start", metavar="SECONDS")
    end_s: float | None = setting(None, flag="end", metavar="SECONDS")

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: if a value is out of range.
        """
        check_bounds(self)
        require(self.fps is None or 0 < self.fps < math.inf, f"fps {self.fps}: must be positive and finite")
        if self.fps is not None and self.stride != 1:
            raise ConfigError(f"stride {self.stride} and fps {self.fps}: only one of them can be given")
        require(0 <= self.start_s < math.inf, f"start {self.start_s} s: must be 0 or more, and finite")
        if self.end_s is not None and not self.end_s > self.start_s:
            raise ConfigError(f"end {self.end_s} s: must be after the start, {self.start_s} s")


def is_video(path: str | os.PathLike[str]) -> bool:
    """Tell by its name whether a file is a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES

"""The options of labelling a video, from which the verbs derive theirs. Imports nothing heavy: `--help` reads it."""

import dataclasses
import math
from pathlib import Path

from motivnet.config import check_bounds, setting
from motivnet.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FollowConfig:
    """How faces are detected, tracked and smoothed. Times are in seconds.

    Args:
        detect_every: Detect faces in every N-th processed frame only; in between, boxes move evenly.
        min_track_s: Mark the faces of tracks that are visible for less, often false ones; 0: none.
        smooth_s: Time constant of the exponential smoothing of each track's probabilities; 0: no smoothing.
        checkpoint_every: Processed frames between two checkpoints, from which --resume continues.
        min_iou: Boxes with a smaller intersection over union are different faces.
        max_gap_s: Longest time for which a face may be missing and keep its track.
    """

    detect_every: int = setting(1, min=1)
    min_track_s: float = setting(0.0, flag="min-track", metavar="SECONDS", min=0)
    smooth_s: float = setting(0.0, flag="smooth", metavar="SECONDS")
    checkpoint_every: int = setting(256, min=1)
    min_iou: float = setting(0.3, flag=None, min=0.01, max=1)
    max_gap_s: float = setting(1.0, flag=None, min=0)

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: if a value is out of range.
        """
        check_bounds(self)
        if not 0 <= self.smooth_s < math.inf:
            raise ConfigError(f"smoothing of {self.smooth_s} s: must be 0 or more, and finite")


def _seconds(text: str) -> float:
    try:
        return float(text.strip().removesuffix("s"))
    except ValueError:
        raise ConfigError(f"{text!r}: no time. Allowed: seconds, such as 1 or 0.5s") from None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TablesConfig:
    """What is counted in the rows of videos, and the files it is written to.

    Args:
        summary: Write one row per file, person and emotion: .csv, .parquet or .jsonl.
        windows: Write one row per file, person and window of time.
        window_s: Length of a window: 1s.
        responses: Write one row per event, person and emotion.
        events: Events, such as stimuli, for --responses: a .csv, .eaf (ELAN) or .boris file.
        baseline: Each person's neutral stretch, subtracted in log-odds: `estimated`, or a .csv, .eaf or .boris file.
        names: Names for tracks: columns source, track, name; tracks of one name are one person.
        workbook: Write these tables, the rows and a codebook as sheets of a workbook.
        elan: Write annotations for ELAN, a tier per person; of several videos: a folder.
        boris: Write a project for BORIS, an observation per file.
    """

    summary: Path | None = setting(None, metavar="OUT.csv")
    windows: Path | None = setting(None, metavar="OUT.csv")
    window_s: float = setting(1.0, flag="window", metavar="SECONDS", parse=_seconds)
    responses: Path | None = setting(None, metavar="OUT.csv")
    events: Path | None = setting(None, metavar="FILE")
    baseline: str | None = setting(None, metavar="estimated|FILE")
    names: Path | None = setting(None, metavar="TRACKS.csv")
    workbook: Path | None = setting(None, metavar="OUT.xlsx")
    elan: Path | None = setting(None, metavar="OUT.eaf")
    boris: Path | None = setting(None, metavar="OUT.boris")

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ConfigError: if a value is out of range, or of events and responses only one is given.
        """
        if not 0 < self.window_s < math.inf:
            raise ConfigError(f"window of {self.window_s} s: must be positive and finite")
        if (self.events is None) != (self.responses is None):
            raise ConfigError("events and responses: only one is given. Allowed: both, the events and their table")

    @property
    def outputs(self) -> dict[str, Path]:
        """The files to write: option -> path."""
        names = ("summary", "windows", "responses", "workbook", "elan", "boris")
        return {name: path for name in names if (path := getattr(self, name)) is not None}

"""Who is who from frame to frame: boxes that overlap are the same face.

Each new box is associated with the track whose latest box it overlaps most, best pair first. A track that finds no box
is kept for some time, so that a face that is missed or hidden for a moment gets its number back. Nothing is recognised:
who leaves the picture and returns later is a new track.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from motivnet.errors import ConfigError
from motivnet.preprocess import Box


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrackingConfig:
    """When two boxes are one face.

    Args:
        min_iou: boxes that overlap less, as intersection over union from 0 to 1, are different faces.
        max_gap_s: longest time, in seconds, for which a face may be missing and keep its number.
    """

    min_iou: float = 0.3
    max_gap_s: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: at a value that is out of range.
        """
        if not 0 < self.min_iou <= 1:
            raise ConfigError(f"min_iou {self.min_iou}: must be above 0, and at most 1")
        if not 0 <= self.max_gap_s < math.inf:
            raise ConfigError(f"max_gap {self.max_gap_s} s: must be 0 or more, and finite")


@dataclasses.dataclass(slots=True)
class _Track:
    box: Box
    seen_s: float


class Tracker:
    """Give the faces of one video their numbers, from 0, in the order in which they appear."""

    def __init__(self, config: TrackingConfig | None = None) -> None:
        self.config = config or TrackingConfig()
        self._tracks: dict[int, _Track] = {}
        self._next_id = 0
        self._searched_s = -math.inf

    def state(self) -> dict[str, Any]:
        """Give all that is remembered, as plain data for JSON."""
        tracks = [[key, *track.box, track.seen_s] for key, track in self._tracks.items()]
        # JSON knows no infinity.
        searched_s = self._searched_s if math.isfinite(self._searched_s) else None
        return {"tracks": tracks, "next_id": self._next_id, "searched_s": searched_s}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, exactly."""
        self._tracks = {int(key): _Track(Box(*box), seen_s) for key, *box, seen_s in state["tracks"]}
        self._next_id = state["next_id"]
        self._searched_s = -math.inf if state["searched_s"] is None else state["searched_s"]

    def update(self, boxes: Sequence[Box], time_s: float) -> list[int]:
        """Take the faces of the next frame that was searched, and tell the track of each.

        Args:
            boxes: all faces of the frame; of new ones the first gets the lowest number.
            time_s: time of the frame, in seconds.
        """
        # Between two searches no face has been missing, however far apart they are.
        since_s = min(time_s - self.config.max_gap_s, self._searched_s)
        self._tracks = {key: track for key, track in self._tracks.items() if track.seen_s >= since_s}
        self._searched_s = time_s
        pairs = sorted(
            (-overlap, key, position)
            for key, track in self._tracks.items()
            for position, box in enumerate(boxes)
            if (overlap := iou(track.box, box)) >= self.config.min_iou
        )
        found: dict[int, int] = {}
        taken: set[int] = set()
        for _, key, position in pairs:
            if key not in taken and position not in found:
                found[position] = key
                taken.add(key)
        for position, box in enumerate(boxes):
            if position not in found:
                found[position] = self._next_id
                self._next_id += 1
            self._tracks[found[position]] = _Track(box, time_s)
        return [found[position] for position in range(len(boxes))]


def iou(one: Box, other: Box) -> float:
    """Divide the area that two boxes share by the area that they cover, 0 to 1."""
    width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (one.width * one.height + other.width * other.height - shared)

"""Track faces from frame to frame, and smooth the probabilities of each track.

Tracking is greedy matching by intersection over union (IoU) with the latest box of each track, best pair first. A track
that is not matched is kept for some time, so that a face that is missed or hidden for a moment keeps its number. Nobody
is recognised: a person who leaves the picture and returns later is a new track.

Smoothing is an exponential moving average in time: with time constant T, an observation t seconds ago has exp(-t / T)
of the weight of the present one. One constant means the same at any frame rate, constant or variable. Averages of
probabilities are probabilities: they still sum to 1.

Shape suffix: C classes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from motivnet.preprocess import Box

# After this many time constants an observation has less than 0.1 % of its weight: dropping it keeps memory bounded.
FORGET_AFTER = 8.0


class Tracker:
    """Number the faces of one video, from 0, in the order in which they appear."""

    def __init__(self, min_iou: float = 0.3, max_gap_s: float = 1.0) -> None:
        """Start without tracks; the arguments are those of `FollowConfig`, which checks them."""
        self.min_iou, self.max_gap_s = min_iou, max_gap_s
        # Latest box of each track, and when it was detected, in seconds.
        self._tracks: dict[int, tuple[Box, float]] = {}
        self._next_id = 0
        self._detected_s: float | None = None

    def state(self) -> dict[str, Any]:
        """Return the state as plain data for JSON."""
        tracks = [[key, *box, seen_s] for key, (box, seen_s) in self._tracks.items()]
        return {"tracks": tracks, "next_id": self._next_id, "detected_s": self._detected_s}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned, exactly."""
        self._tracks = {int(key): (Box(*box), seen_s) for key, *box, seen_s in state["tracks"]}
        self._next_id, self._detected_s = state["next_id"], state["detected_s"]

    def end(self) -> None:
        """End all tracks, as at a cut."""
        self._tracks = {}

    def update(self, boxes: Sequence[Box], time_s: float) -> list[int]:
        """Return the track of each face that was detected in the next frame.

        Args:
            boxes: all faces of the frame; of new ones the first gets the lowest number.
            time_s: time of the frame, in seconds.
        """
        # A track that was matched at the latest detection is kept, however long ago that was.
        oldest_s = time_s - self.max_gap_s
        oldest_s = oldest_s if self._detected_s is None else min(oldest_s, self._detected_s)
        self._tracks = {key: (box, seen_s) for key, (box, seen_s) in self._tracks.items() if seen_s >= oldest_s}
        self._detected_s = time_s
        pairs = sorted(
            (-overlap, key, position)
            for key, (known, _) in self._tracks.items()
            for position, box in enumerate(boxes)
            if (overlap := known.iou(box)) >= self.min_iou
        )
        matched: dict[int, int] = {}
        for _, key, position in pairs:
            if key not in matched.values() and position not in matched:
                matched[position] = key
        for position, box in enumerate(boxes):
            if position not in matched:
                matched[position] = self._next_id
                self._next_id += 1
            self._tracks[matched[position]] = box, time_s
        return [matched[position] for position in range(len(boxes))]


class Smoother:
    """Smooth the probabilities of the tracks of one video."""

    def __init__(self, time_constant_s: float) -> None:
        """Start without observations; a time constant of 0 leaves probabilities as they are."""
        self.time_constant_s = time_constant_s
        # Average and time of each track, the longest unseen first.
        self._means: dict[int, tuple[np.ndarray, float]] = {}

    def state(self) -> dict[str, Any]:
        """Return the state as plain data for JSON."""
        return {"means": [[key, time_s, mean_C.tolist()] for key, (mean_C, time_s) in self._means.items()]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned, exactly."""
        self._means = {int(key): (np.array(mean, np.float64), time_s) for key, time_s, mean in state["means"]}

    def update(self, track_id: int, time_s: float, probs_C: np.ndarray) -> np.ndarray:
        """Return the average of a track, (C,), after one more observation.

        Args:
            track_id: the track.
            time_s: time of the observation, in seconds; never before that of the last one.
            probs_C: one probability per label.
        """
        if not self.time_constant_s:
            return probs_C
        before = self._means.pop(track_id, None)
        mean_C = np.asarray(probs_C, np.float64)
        if before is not None:
            weight = -math.expm1(-max(0.0, time_s - before[1]) / self.time_constant_s)
            mean_C = before[0] + weight * (probs_C - before[0])
        self._means[track_id] = mean_C, time_s
        for key, (_, seen_s) in list(self._means.items()):
            if time_s - seen_s <= FORGET_AFTER * self.time_constant_s:
                break
            del self._means[key]
        return mean_C

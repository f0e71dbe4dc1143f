"""Steadier emotions: an exponential mean of each track's probabilities, by time and not by frame.

With time constant T, what was seen t seconds ago counts exp(-t / T) of what is seen now, so that one constant means
the same at any frame rate, also a variable one. Means of probabilities are probabilities: they still sum to 1.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from motivnet.errors import ConfigError

# After so many time constants less than 0.1 % of a memory is left: it is forgotten, which keeps the memory bounded.
FORGOTTEN_AFTER = 8.0


class Smoother:
    """Smooth the probabilities of the tracks of one video."""

    def __init__(self, time_constant_s: float) -> None:
        """Start without memories.

        Args:
            time_constant_s: in seconds; 0 leaves probabilities as they are.

        Raises:
            ConfigError: if it is negative or not finite.
        """
        if not 0 <= time_constant_s < math.inf:
            raise ConfigError(f"smoothing of {time_constant_s} s: must be 0 or more, and finite")
        self.time_constant_s = time_constant_s
        # Mean and time of each track, the longest unseen first.
        self._means: dict[int, tuple[np.ndarray, float]] = {}

    def state(self) -> dict[str, Any]:
        """Give all that is remembered, as plain data for JSON."""
        return {"means": [[key, time_s, mean_C.tolist()] for key, (mean_C, time_s) in self._means.items()]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, exactly."""
        self._means = {int(key): (np.array(mean, np.float64), time_s) for key, time_s, mean in state["means"]}

    def update(self, track_id: int, time_s: float, probs_C: np.ndarray) -> np.ndarray:
        """Give the mean of a track, (C,), after a further observation; times must not run backwards.

        Args:
            track_id: whose probabilities they are.
            time_s: when they were seen, in seconds.
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
        self._forget(time_s)
        return mean_C

    def _forget(self, time_s: float) -> None:
        while True:
            oldest = next(iter(self._means))
            if time_s - self._means[oldest][1] <= FORGOTTEN_AFTER * self.time_constant_s:
                return
            del self._means[oldest]

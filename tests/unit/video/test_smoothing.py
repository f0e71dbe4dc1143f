"""Probabilities of a track are smoothed by time, whatever the frame rate."""

import math

import numpy as np
import pytest

from motivnet.errors import ConfigError
from motivnet.video.smoothing import FORGOTTEN_AFTER, Smoother

HAPPY, SAD = np.array([1.0, 0.0]), np.array([0.0, 1.0])


def test_no_smoothing_changes_nothing() -> None:
    smoother = Smoother(0)
    smoother.update(0, 0.0, HAPPY)
    assert smoother.update(0, 0.1, SAD) is SAD


def test_the_first_observation_counts_in_full() -> None:
    assert Smoother(1.0).update(7, 3.0, SAD).tolist() == [0, 1]


def test_memory_fades_by_the_time_constant() -> None:
    smoother = Smoother(0.5)
    smoother.update(0, 0.0, HAPPY)
    assert smoother.update(0, 0.5, SAD) == pytest.approx([math.exp(-1), 1 - math.exp(-1)])


def test_the_frame_rate_does_not_matter() -> None:
    fast, slow = Smoother(1.0), Smoother(1.0)
    fast.update(0, 0.0, HAPPY)
    slow.update(0, 0.0, HAPPY)
    times = (0.1, 0.15, 0.6, 1.0)
    last = [fast.update(0, time_s, SAD) for time_s in times][-1]
    assert last == pytest.approx(slow.update(0, 1.0, SAD))
    assert last.sum() == pytest.approx(1)


def test_tracks_do_not_mix() -> None:
    smoother = Smoother(1.0)
    smoother.update(0, 0.0, HAPPY)
    assert smoother.update(1, 0.0, SAD).tolist() == [0, 1]


def test_tracks_long_gone_are_forgotten() -> None:
    smoother = Smoother(1.0)
    for track_id in range(1000):
        smoother.update(track_id, float(track_id), HAPPY)
    assert len(smoother._means) <= FORGOTTEN_AFTER + 1


@pytest.mark.parametrize("wrong", [-0.1, math.inf, math.nan])
def test_a_time_constant_out_of_range(wrong: float) -> None:
    with pytest.raises(ConfigError, match="smoothing"):
        Smoother(wrong)

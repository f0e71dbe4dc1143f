"""Boxes of successive frames become tracks, whose probabilities are smoothed in time."""

import math

import numpy as np
import pytest

from motivnet.preprocess import Box
from motivnet.video.tracking import FORGET_AFTER, Smoother, Tracker

LEFT, RIGHT = Box(0, 0, 40, 40), Box(100, 0, 40, 40)
HAPPY, SAD = np.array([1.0, 0.0]), np.array([0.0, 1.0])


def moved(box: Box, x: float) -> Box:
    return box._replace(x=box.x + x)


def test_iou() -> None:
    assert LEFT.iou(LEFT) == 1
    assert LEFT.iou(RIGHT) == 0
    assert LEFT.iou(moved(LEFT, 20)) == pytest.approx(1 / 3)
    assert LEFT.iou(moved(LEFT, 40)) == 0


def test_tracks_stay_when_faces_move_and_change_their_order() -> None:
    tracker = Tracker()
    assert tracker.update([LEFT, RIGHT], 0.0) == [0, 1]
    assert tracker.update([moved(RIGHT, 5), moved(LEFT, 5)], 0.1) == [1, 0]
    assert tracker.update([moved(RIGHT, 10), moved(LEFT, 10), Box(300, 0, 9, 9)], 0.2) == [1, 0, 2]


def test_the_best_pair_goes_first() -> None:
    tracker = Tracker()
    tracker.update([LEFT], 0.0)
    assert tracker.update([moved(LEFT, 15), moved(LEFT, 2)], 0.1) == [1, 0]


def test_a_face_that_is_missed_for_a_moment_keeps_its_number() -> None:
    tracker = Tracker(max_gap_s=0.5)
    tracker.update([LEFT], 0.0)
    assert tracker.update([], 0.2) == []
    assert tracker.update([LEFT], 0.5) == [0]


def test_a_face_that_was_away_for_long_is_a_new_track() -> None:
    tracker = Tracker(max_gap_s=0.5)
    tracker.update([LEFT, RIGHT], 0.0)
    tracker.update([RIGHT], 0.4)
    assert tracker.update([LEFT, RIGHT], 0.8) == [2, 1]


def test_an_empty_picture_for_long_ends_all_tracks() -> None:
    tracker = Tracker(max_gap_s=0.5)
    tracker.update([LEFT], 0.0)
    tracker.update([], 1.0)
    assert tracker.update([LEFT], 2.0) == [1]


def test_searches_far_apart_do_not_end_tracks() -> None:
    tracker = Tracker(max_gap_s=0.5)
    assert [tracker.update([LEFT], time_s) for time_s in (0.0, 10.0, 20.0)] == [[0], [0], [0]]


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
    assert len(smoother._means) <= FORGET_AFTER + 1

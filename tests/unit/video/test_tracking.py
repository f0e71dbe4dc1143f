"""Boxes of successive frames become tracks."""

import math

import pytest

from motivnet.errors import ConfigError
from motivnet.preprocess import Box
from motivnet.video.tracking import Tracker, TrackingConfig, iou

LEFT, RIGHT = Box(0, 0, 40, 40), Box(100, 0, 40, 40)


def moved(box: Box, x: float) -> Box:
    return box._replace(x=box.x + x)


def test_iou() -> None:
    assert iou(LEFT, LEFT) == 1
    assert iou(LEFT, RIGHT) == 0
    assert iou(LEFT, moved(LEFT, 20)) == pytest.approx(1 / 3)
    assert iou(LEFT, moved(LEFT, 40)) == 0


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
    tracker = Tracker(TrackingConfig(max_gap_s=0.5))
    tracker.update([LEFT], 0.0)
    assert tracker.update([], 0.2) == []
    assert tracker.update([LEFT], 0.5) == [0]


def test_a_face_that_was_away_for_long_is_a_new_track() -> None:
    tracker = Tracker(TrackingConfig(max_gap_s=0.5))
    tracker.update([LEFT, RIGHT], 0.0)
    tracker.update([RIGHT], 0.4)
    assert tracker.update([LEFT, RIGHT], 0.8) == [2, 1]


def test_an_empty_picture_for_long_ends_all_tracks() -> None:
    tracker = Tracker(TrackingConfig(max_gap_s=0.5))
    tracker.update([LEFT], 0.0)
    tracker.update([], 1.0)
    assert tracker.update([LEFT], 2.0) == [1]


def test_searches_far_apart_do_not_end_tracks() -> None:
    tracker = Tracker(TrackingConfig(max_gap_s=0.5))
    assert [tracker.update([LEFT], time_s) for time_s in (0.0, 10.0, 20.0)] == [[0], [0], [0]]


@pytest.mark.parametrize("wrong", [{"min_iou": 0}, {"min_iou": 1.1}, {"max_gap_s": -1}, {"max_gap_s": math.inf}])
def test_settings_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        TrackingConfig(**wrong)

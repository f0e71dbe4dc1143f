import math

import cv2
import numpy as np
import pytest

from motivnet.faces import load_detector
from motivnet.faces.pose import MEAN_FACE, Pose, head_pose

FRONT = [(float(x), float(y)) for x, y, _ in MEAN_FACE]


def seen(yaw: float, pitch: float, roll: float, distance_mm: float = 1000.0) -> list[tuple[float, float]]:
    """Project the mean face, turned by degrees about the vertical, its own horizontal and its own direction."""
    turns = ((0, -yaw, 0), (-pitch, 0, 0), (0, 0, roll))
    matrix = np.linalg.multi_dot([cv2.Rodrigues(np.radians(turn))[0] for turn in turns])
    points = (MEAN_FACE - MEAN_FACE.mean(axis=0)) @ matrix.T + (0, 0, distance_mm)
    return [(x / z, y / z) for x, y, z in points.tolist()]


@pytest.mark.parametrize(
    "pose", [(0, 0, 0), (40, 0, 0), (-40, 0, 0), (0, 25, 0), (0, -25, 0), (0, 0, 35), (0, 0, -35), (30, -20, 15)]
)
def test_a_known_pose_is_found_again(pose):
    assert head_pose(seen(*pose)) == pytest.approx(pose, abs=1)
    assert head_pose(seen(*pose, distance_mm=4000)) == pytest.approx(pose, abs=3)


def fitted(points) -> Pose:
    pose = head_pose(points)
    assert pose is not None
    return pose


def test_signs():
    # The nose moves to the right of the image; up; and the right eye, on the left of the image, up.
    for expected, move in (("yaw", (8, 0)), ("pitch", (0, -8))):
        points = [FRONT[0], FRONT[1], tuple(np.add(FRONT[2], move)), FRONT[3], FRONT[4]]
        assert getattr(fitted(points), expected) > getattr(fitted(FRONT), expected) + 5
    turned = [(x * math.cos(0.3) - y * math.sin(0.3), x * math.sin(0.3) + y * math.cos(0.3)) for x, y in FRONT]
    assert turned[0][1] < turned[1][1]
    assert fitted(turned)[2] == pytest.approx(math.degrees(0.3), abs=1)


def test_a_line_along_the_face_points_where_it_turns():
    assert Pose(0, 0, 10).direction == pytest.approx((0, 0))
    assert Pose(90, 0, 0).direction == pytest.approx((1, 0))
    assert Pose(0, 90, 0).direction == pytest.approx((0, -1))


def test_mirrored_points_have_the_opposite_yaw_and_roll_wherever_and_however_large():
    points = seen(30, 10, 20)
    mirrored = [(-x, y) for x, y in (points[1], points[0], points[2], points[4], points[3])]
    yaw, pitch, roll = fitted(points)
    assert fitted(mirrored) == pytest.approx((-yaw, pitch, -roll), abs=0.01)
    assert fitted([(5000 * x + 900, 5000 * y - 70) for x, y in points]) == pytest.approx((yaw, pitch, roll), abs=0.01)


def test_a_photograph_and_its_mirror_image(astronaut):
    (found,), (mirrored,) = (load_detector().detect(image) for image in (astronaut, astronaut[:, ::-1].copy()))
    pose, opposite = fitted(found.landmarks), fitted(mirrored.landmarks)
    assert max(map(abs, pose)) < 15
    assert opposite[0] == pytest.approx(-pose[0], abs=6)
    assert opposite[2] == pytest.approx(-pose[2], abs=6)


@pytest.mark.parametrize(
    "points", [[(5, 5)] * 5, [(math.nan, 0)] * 5, [(math.inf, n) for n in range(5)], [(0, n) for n in range(5)]]
)
def test_points_without_a_face_have_no_pose_or_a_finite_one(points):
    pose = head_pose(points)
    assert pose is None or all(map(math.isfinite, pose))

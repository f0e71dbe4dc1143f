"""Head pose: yaw, pitch and roll from the five landmarks of a face."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Right eye, left eye, nose, and right and left corner of the mouth of MediaPipe's canonical face model (Apache-2.0), in
# millimetres from between the eyes; an eye is midway between its corners. Axes of the camera: right, down, away.
MEAN_FACE = np.array([(-31.5, 0.0, 0.0), (31.5, 0.0, 0.0), (0.0, 37.5, -40.1), (-24.6, 69.7, -8.2), (24.6, 69.7, -8.2)])
# From which faces are taken to be seen: neither it nor the focal length of a photograph is known.
DISTANCE_MM = 1000.0


class Pose(NamedTuple):
    """Where a face points, in degrees, for the viewer of the image; all 0: straight into the camera.

    A face that points straight ahead is turned by `yaw` about the vertical, then by `pitch`, then by `roll` about its
    own direction.

    Attributes:
        yaw: positive: towards the right edge of the image, the person's own left.
        pitch: positive: up.
        roll: positive: tilted clockwise in the image.
    """

    yaw: float
    pitch: float
    roll: float

    @property
    def direction(self) -> tuple[float, float]:
        """What is seen in the image of a line of length 1 from the face to where it points: (right, down)."""
        yaw, pitch = math.radians(self.yaw), math.radians(self.pitch)
        return math.sin(yaw) * math.cos(pitch), -math.sin(pitch)


def head_pose(landmarks: Sequence[tuple[float, float]]) -> Pose | None:
    """Fit a mean face to the five landmarks of a `Detection`; `benchmarks/head_pose.py` measures how well.

    The optical axis goes through the middle of the landmarks, not of the image: pose is relative to the line from the
    camera to the face, and the same in an image and a crop of it.

    Returns:
        The pose; None for points that no face projects to, such as five equal ones.
    """
    import cv2

    points = np.asarray(landmarks, float)
    if not np.isfinite(points).all() or not np.ptp(points, axis=0).any():
        return None
    size_px, size_mm = points.std(axis=0).max(), MEAN_FACE[:, :2].std(axis=0).max()
    points = (points - points.mean(axis=0)) / size_px * size_mm / DISTANCE_MM
    found, rotation, shift = cv2.solvePnP(MEAN_FACE, points, np.eye(3), None, flags=cv2.SOLVEPNP_SQPNP)
    if not found:
        return None
    rotation, _ = cv2.solvePnPRefineLM(MEAN_FACE, points, np.eye(3), None, rotation, shift)
    matrix, _ = cv2.Rodrigues(rotation)
    if not np.isfinite(matrix).all():
        return None
    yaw, pitch = math.atan2(-matrix[0, 2], matrix[2, 2]), math.asin(min(max(matrix[1, 2], -1.0), 1.0))
    return Pose(*map(math.degrees, (yaw, pitch, math.atan2(matrix[1, 0], matrix[1, 1]))))

"""Measure the head pose: on projections of faces whose pose is known, and on photographs turned and mirrored.

    python benchmarks/head_pose.py --faces faces/ [--rows 500]

Projections: the mean face, and persons whose landmarks differ from it (3 mm of standard deviation in each direction),
at 0.5 to 3 m, with yaw up to 60 and pitch and roll up to 30 degrees; landmarks exact, and with an error of 2 and 4 % of
the distance between the eyes. That is the error of the fit. Photographs: every n-th of the development faces (see
`nano.py`), whose pose is not known; turned in the plane, roll must change by the same angle, and mirrored, yaw and roll
must be the opposite. That is the error of the landmarks.
"""

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from alignment import detector, draw
from nano import development_faces
from tables import PAGE, fill_block, markdown_table, write_results

from motivnet.data.manifest import Manifest
from motivnet.faces.pose import MEAN_FACE, Pose, head_pose

COUNT, PERSON_MM, LIMITS = 2000, 3.0, (60, 30, 30)
TURNS = (-30, -20, -10, 10, 20, 30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=500)
    options = parser.parse_args()
    projections = [
        projected(person_mm, noise) for person_mm, noise in ((0, 0), (PERSON_MM, 0), (PERSON_MM, 0.02), (0, 0.04))
    ]
    photographs = changed(draw(development_faces(options.faces / "dev.parquet"), options.rows))
    for name, rows in (("projections", projections), ("photographs", photographs)):
        fill_block(PAGE, f"head_pose_{name}", markdown_table(rows))
    print(f"written: {write_results('head_pose', {'projections': projections, 'photographs': photographs})}")


def rotation(pose: Pose) -> np.ndarray:
    """Return the rotation that turns a face in this way, (3, 3), in the axes of the camera."""
    turns = ((0, -pose.yaw, 0), (-pose.pitch, 0, 0), (0, 0, pose.roll))
    return np.linalg.multi_dot([cv2.Rodrigues(np.radians(turn))[0] for turn in turns])


def projected(person_mm: float, noise: float) -> dict[str, Any]:
    """Return the errors of the pose of projections, in degrees."""
    random = np.random.default_rng(0)
    errors = []
    for _ in range(COUNT):
        pose = Pose(*random.uniform(-1, 1, 3) * LIMITS)
        face = MEAN_FACE + random.normal(0, person_mm, MEAN_FACE.shape)
        points = (face - face.mean(axis=0)) @ rotation(pose).T + (0, 0, random.uniform(500, 3000))
        landmarks = points[:, :2] / points[:, 2:]
        landmarks += random.normal(0, noise * np.ptp(MEAN_FACE[:2, 0]) / points[:, 2].mean(), landmarks.shape)
        found = head_pose(landmarks.tolist())
        assert found is not None
        errors.append(np.abs(np.subtract(found, pose)))
    mean, high = np.mean(errors, axis=0), np.quantile(errors, 0.95, axis=0)
    names = {"persons, mm": person_mm, "landmarks, % of the eyes' distance": round(100 * noise)}
    return names | {name: f"{mean[i]:.1f} ({high[i]:.1f})" for i, name in enumerate(Pose._fields)}


def changed(manifest: Manifest) -> list[dict[str, object]]:
    """Return how the pose of photographs follows turns and mirroring."""
    images = [manifest.read(row)[0] for row in range(len(manifest))]
    before = [pose_of(image) for image in images]
    rows = []
    for angle in (*TURNS, None):
        differences = []
        for image, pose in zip(images, before, strict=True):
            after = pose and pose_of(image[:, ::-1] if angle is None else turned(image, angle))
            if pose and after:
                sign = 1 if angle is None else -1
                differences.append((after.yaw + sign * pose.yaw, after.roll + sign * pose.roll))
        yaw, roll = np.transpose(differences)
        error = np.abs(roll - (angle or 0))
        rows.append(
            {
                "change": "mirrored" if angle is None else f"turned by {angle}",
                "faces": len(differences),
                "roll changed by (median)": "opposite" if angle is None else round(float(np.median(roll)), 1),
                "error of roll, median (95 %)": f"{np.median(error):.1f} ({np.quantile(error, 0.95):.1f})",
                "error of yaw, median": round(float(np.median(np.abs(yaw))), 1) if angle is None else "",
            }
        )
    return rows


def turned(image_hwc_u8: np.ndarray, angle: float) -> np.ndarray:
    """Turn an image clockwise about its centre, by degrees."""
    height, width = image_hwc_u8.shape[:2]
    # OpenCV's angles are counterclockwise.
    matrix = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), -angle, 1)
    return cv2.warpAffine(image_hwc_u8, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


def pose_of(image_hwc_u8: np.ndarray) -> Pose | None:
    """Return the pose of the largest face in the middle."""
    for face in detector().detect(np.ascontiguousarray(image_hwc_u8)):
        x, y, width, height = face.box
        if x < image_hwc_u8.shape[1] / 2 < x + width and y < image_hwc_u8.shape[0] / 2 < y + height:
            return head_pose(face.landmarks)
    return None


if __name__ == "__main__":
    main()

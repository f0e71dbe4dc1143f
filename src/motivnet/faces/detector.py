"""The face detector protocol, its configuration and its detections.

Shape suffixes: h height, w width, c channels.
"""

import dataclasses
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from motivnet.config import Settings, setting
from motivnet.preprocess import Box


@dataclasses.dataclass(frozen=True, slots=True)
class Detection:
    """One face.

    Args:
        box: the face, in pixels of the upright image; may reach beyond it.
        score: the detector's confidence, 0 to 1.
        whole: the box is the whole image, because no detector was used.
        landmarks: right eye, left eye, nose, and right and left corner of the mouth, from the person's point of view;
            (x, y) in pixels of the upright image. None: the detector has none.
    """

    box: Box
    score: float
    whole: bool = False
    landmarks: tuple[tuple[float, float], ...] | None = None

    @property
    def crop_box(self) -> Box | None:
        """The box for `Preprocessing.face`: None for a whole image, which gets no margin."""
        return None if self.whole else self.box

    def scaled(self, factor: float) -> "Detection":
        """Return the face in an image whose sides are longer by this factor."""
        points = self.landmarks and tuple((factor * x, factor * y) for x, y in self.landmarks)
        return dataclasses.replace(self, box=self.box.scaled(factor), landmarks=points)


class FaceDetector(Protocol):
    """A face detector. Implementations must be thread-safe."""

    @property
    def name(self) -> str:
        """Name of the detector, such as one of `DETECTORS`."""
        ...

    def detect(self, image_hwc_u8: np.ndarray) -> list[Detection]:
        """Detect the faces in an upright RGB image, uint8 (h, w, 3); largest area first."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DetectorConfig(Settings):
    """Settings of a detector.

    Args:
        long_side: larger images are downscaled to this longer side, in pixels; boxes are scaled back.
        min_long_side: smaller images are upscaled to this longer side, in pixels, but not beyond `long_side`.
        min_score: minimum score of a detection, 0 to 1.
        min_face: minimum of a box's shorter side, in pixels of the upright image.
        device: where the detector runs, as for `open_session`.
    """

    long_side: int = setting(640, "Longer side of larger images after downscaling, in pixels.", min=1)
    # Upscaled to this, nearly all faces of FER-2013, 48 x 48 pixels, are detected (`benchmarks/crop_margin.py`).
    min_long_side: int = setting(192, "Longer side of smaller images after upscaling, in pixels.", min=1)
    min_score: float = setting(0.6, "Minimum score of a detection.", min=0, max=1)
    min_face: float = setting(0.0, "Minimum of a box's shorter side, in pixels.", min=0)
    device: str = "auto"

    def resize(self, image_hwc_u8: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
        """Resize an image to the detector's input size.

        Returns:
            The image, and the factors (horizontal, vertical) that scale its boxes back to the original.
        """
        import cv2

        height, width = image_hwc_u8.shape[:2]
        longer = max(height, width)
        target = min(max(longer, self.min_long_side), self.long_side)
        if target == longer:
            return image_hwc_u8, (1.0, 1.0)
        small_h, small_w = max(1, round(height * target / longer)), max(1, round(width * target / longer))
        # Beyond a factor of two the bilinear filter skips pixels; below, it is as good and five times as fast.
        chosen = cv2.INTER_AREA if 2 * target < longer else cv2.INTER_LINEAR
        return cv2.resize(image_hwc_u8, (small_w, small_h), interpolation=chosen), (width / small_w, height / small_h)


def largest_first(detections: Iterable[Detection]) -> list[Detection]:
    """Sort by area, and from left to right for equal areas."""
    return sorted(detections, key=lambda found: (-found.box.width * found.box.height, found.box.x, found.box.y))


class WholeImage:
    """Use every image as one face, without detection."""

    name = "whole"

    def detect(self, image_hwc_u8: np.ndarray) -> list[Detection]:
        """Return the whole image, (h, w, 3), as one face with score 1."""
        height, width = image_hwc_u8.shape[:2]
        return [Detection(Box(0.0, 0.0, float(width), float(height)), 1.0, whole=True)]

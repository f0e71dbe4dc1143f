"""The face detector protocol, and what a detector is told and returns.

Shape suffixes: h height, w width, c channels.
"""

import dataclasses
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from motivnet.errors import ConfigError
from motivnet.preprocess import Box


@dataclasses.dataclass(frozen=True, slots=True)
class Detection:
    """One face.

    Args:
        box: the face, in pixels of the upright image; may reach beyond it.
        score: the detector's confidence, 0 to 1.
        whole: the box is the whole image because nobody looked for a face in it.
    """

    box: Box
    score: float
    whole: bool = False

    @property
    def crop_box(self) -> Box | None:
        """What `Preprocessing` is to cut out: None for a whole image, which gets no margin."""
        return None if self.whole else self.box


class FaceDetector(Protocol):
    """Anything that finds faces. Implementations may be called from several threads at once."""

    @property
    def name(self) -> str:
        """Its name, one of `DETECTORS` for our own."""
        ...

    def detect(self, image_hwc_u8: np.ndarray) -> list[Detection]:
        """Find the faces of an upright RGB image, uint8 (h, w, 3); largest area first."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DetectorConfig:
    """How a detector looks at an image.

    Args:
        long_side: larger images are shrunk until their longer side has so many pixels; boxes are scaled back.
        min_long_side: smaller images are enlarged until their longer side has so many pixels, within `long_side`.
        min_score: faces of a lower score, 0 to 1, are not reported.
    """

    long_side: int = 640
    # FER-2013's faces of 48 x 48 pixels, enlarged to this, are nearly all found (`benchmarks/crop_margin.py`).
    min_long_side: int = 192
    min_score: float = 0.6

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: at a value that is out of range.
        """
        if self.long_side < 1 or self.min_long_side < 1:
            raise ConfigError(
                f"detector: long_side {self.long_side}, min_long_side {self.min_long_side}: both at least 1"
            )
        if not 0 <= self.min_score <= 1:
            raise ConfigError(f"detector: min_score {self.min_score} must be from 0 to 1")

    def resize(self, image_hwc_u8: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
        """Bring an image to the size that the detector looks at.

        Returns:
            The image, and the factors (horizontal, vertical) that take its boxes back to the original.
        """
        import cv2

        height, width = image_hwc_u8.shape[:2]
        longer = max(height, width)
        target = min(max(longer, self.min_long_side), self.long_side)
        if target == longer:
            return image_hwc_u8, (1.0, 1.0)
        small_h, small_w = max(1, round(height * target / longer)), max(1, round(width * target / longer))
        # Beyond a factor of two the bilinear filter skips pixels; up to there it is as good, and five times as fast.
        chosen = cv2.INTER_AREA if 2 * target < longer else cv2.INTER_LINEAR
        return cv2.resize(image_hwc_u8, (small_w, small_h), interpolation=chosen), (width / small_w, height / small_h)


def largest_first(detections: Iterable[Detection]) -> list[Detection]:
    """Sort by area, then from left to right, so that equal faces have an order too."""
    return sorted(detections, key=lambda found: (-found.box.width * found.box.height, found.box.x, found.box.y))


class WholeImage:
    """Take every image for one face."""

    name = "whole"

    def detect(self, image_hwc_u8: np.ndarray) -> list[Detection]:
        """Give the whole of an image, (h, w, 3), as one face of score 1."""
        height, width = image_hwc_u8.shape[:2]
        return [Detection(Box(0.0, 0.0, float(width), float(height)), 1.0, whole=True)]

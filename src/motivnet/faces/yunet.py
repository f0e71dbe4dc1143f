"""OpenCV's YuNet, from a model file that the user provides, for platforms without libfacedetection."""

import threading
from pathlib import Path

import numpy as np

from motivnet.errors import DetectorError
from motivnet.faces.detector import Detection, DetectorConfig, largest_first
from motivnet.preprocess import Box

NMS_THRESHOLD = 0.3
MAX_CANDIDATES = 5000


class YuNet:
    """Detect faces with OpenCV's `FaceDetectorYN`."""

    name = "yunet"

    def __init__(self, model_file: Path, config: DetectorConfig) -> None:
        """Load the model.

        Args:
            model_file: OpenCV Zoo's `face_detection_yunet_*.onnx`.
            config: image size and score threshold.

        Raises:
            DetectorError: if the file is missing or not such a model.
        """
        import cv2

        if not model_file.is_file():
            raise DetectorError(f"detector 'yunet': {model_file}: no such file")
        try:
            self._model = cv2.FaceDetectorYN.create(
                str(model_file), "", (320, 320), config.min_score, NMS_THRESHOLD, MAX_CANDIDATES
            )
        except cv2.error:
            raise DetectorError(f"detector 'yunet': {model_file}: not a model that OpenCV can load") from None
        self.config = config
        # Input size and image are set in two calls.
        self._lock = threading.Lock()
        try:
            # OpenCV checks only now whether the outputs are YuNet's.
            self.detect(np.zeros((32, 32, 3), np.uint8))
        except cv2.error:
            raise DetectorError(f"detector 'yunet': {model_file}: a model, but not YuNet") from None

    def detect(self, image_hwc_u8: np.ndarray) -> list[Detection]:
        """Detect the faces in an upright RGB image, uint8 (h, w, 3); largest area first."""
        small_hwc, (scale_x, scale_y) = self.config.resize(image_hwc_u8)
        bgr_hwc = np.ascontiguousarray(small_hwc[:, :, ::-1])
        with self._lock:
            self._model.setInputSize((bgr_hwc.shape[1], bgr_hwc.shape[0]))
            _, rows = self._model.detect(bgr_hwc)
        # A row is x, y, width, height, five landmarks (x, y), score; None means no rows.
        return largest_first(
            Detection(Box(x * scale_x, y * scale_y, w * scale_x, h * scale_y), min(1.0, max(0.0, score)))
            for x, y, w, h, *_, score in ([] if rows is None else np.asarray(rows, dtype=float).tolist())
            if w > 0 and h > 0
        )

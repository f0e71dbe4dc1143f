"""Detect faces: the detector protocol and its implementations."""

from pathlib import Path

from motivnet.errors import DetectorError, require, unknown_name
from motivnet.faces.detector import Detection, DetectorConfig, FaceDetector, WholeImage

__all__ = ["DETECTORS", "Detection", "DetectorConfig", "FaceDetector", "load_detector"]

DETECTORS = ("yunet", "libfacedetection", "whole")


def load_detector(name: str = "yunet", *, config: DetectorConfig | None = None) -> FaceDetector:
    """Load a face detector.

    Args:
        name: `yunet` (the default: works offline), `yunet:PATH.onnx` (another file of it, such as OpenCV Zoo's), or
            `whole` (for images that are crops of faces). `libfacedetection`, the library with the same network that was
            once the default, means `yunet`.
        config: device, image size and thresholds; None: the defaults.

    Raises:
        DetectorError: if there is no such detector, or its file is missing or of another model.
        ConfigError: if the device is not available.
    """
    kind, colon, file = name.partition(":")
    require(kind in DETECTORS, f"{unknown_name('detector', kind, DETECTORS)} (or yunet:PATH.onnx)", DetectorError)
    require(not colon or kind == "yunet", f"detector {kind!r} takes no file, found {file!r}", DetectorError)
    if kind == "whole":
        return WholeImage()
    from motivnet.faces.yunet import MODEL_FILE, YuNet

    return YuNet(config or DetectorConfig(), Path(file) if colon else MODEL_FILE)

"""Detect faces: the detector protocol and its implementations."""

from pathlib import Path

from motivnet.errors import DetectorError, unknown_name
from motivnet.faces.detector import Detection, DetectorConfig, FaceDetector, WholeImage

__all__ = ["DETECTORS", "Detection", "DetectorConfig", "FaceDetector", "load_detector"]

DETECTORS = ("libfacedetection", "yunet", "whole")


def load_detector(name: str = "libfacedetection", *, config: DetectorConfig | None = None) -> FaceDetector:
    """Load a face detector.

    Args:
        name: `libfacedetection` (the default: works offline), `yunet:PATH.onnx` (OpenCV's YuNet, from its model file),
            or `whole` (for images that are crops of faces).
        config: image size and score threshold; None: the defaults.

    Raises:
        DetectorError: if there is no such detector, or it cannot run on this machine.
    """
    config = config or DetectorConfig()
    kind, colon, argument = name.partition(":")
    if kind not in DETECTORS:
        raise DetectorError(f"{unknown_name('detector', kind, DETECTORS)} (as yunet:PATH.onnx)")
    if kind == "yunet":
        from motivnet.faces.yunet import YuNet

        if not argument:
            raise DetectorError(
                "detector 'yunet' needs OpenCV's model file. Allowed: yunet:PATH, such as "
                "yunet:face_detection_yunet_2023mar.onnx"
            )
        return YuNet(Path(argument), config)
    if colon:
        raise DetectorError(f"detector {kind!r} takes no file, found {argument!r}")
    if kind == "whole":
        return WholeImage()
    from motivnet.faces.libfacedetection import LibFaceDetection

    return LibFaceDetection(config)

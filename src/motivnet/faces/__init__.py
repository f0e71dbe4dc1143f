"""Find faces: the detector protocol and its implementations."""

from motivnet.faces.detector import DETECTORS, Detection, DetectorConfig, FaceDetector, load_detector

__all__ = ["DETECTORS", "Detection", "DetectorConfig", "FaceDetector", "load_detector"]

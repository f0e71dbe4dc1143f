"""Find faces: the detector protocol and its implementations."""

from motivnet.faces.detector import Detection, DetectorConfig, FaceDetector
from motivnet.faces.load import DETECTORS, load_detector

__all__ = ["DETECTORS", "Detection", "DetectorConfig", "FaceDetector", "load_detector"]

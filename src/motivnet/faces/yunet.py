"""YuNet: a small CNN that detects faces and five landmarks, in onnxruntime; the default.

Wu, Peng, Yu: YuNet: A Tiny Millisecond-level Face Detector, Machine Intelligence Research 2023. The network is part of
the package (`scripts/make_yunet.py`); OpenCV Zoo's files of it can be used as well.

Shape suffixes: B images, N faces or candidates, C channels, H height, W width.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from motivnet.errors import CheckpointError, DetectorError, require, reraised
from motivnet.faces.detector import Detection, DetectorConfig, largest_first
from motivnet.onnx_session import open_session, session_errors
from motivnet.preprocess import Box

MODEL_FILE = Path(__file__).parents[1] / "assets" / "yunet" / "yunet.onnx"
STRIDES = (8, 16, 32)
# The outputs of our file, and of OpenCV Zoo's.
OUTPUTS = [f"stride{stride}" for stride in STRIDES]
ZOO_OUTPUTS = [f"{head}_{stride}" for stride in STRIDES for head in ("cls", "obj", "bbox", "kps")]
# As in the authors' libfacedetection.
MIN_SCORE, MAX_IOU, MAX_FACES = 0.2, 0.45, 256

# Scores (N,), numbers of the cells (N,), and outputs (N, 14): centre, logarithms of width and height, landmarks.
Candidates = tuple[np.ndarray, np.ndarray, np.ndarray]


class YuNet:
    """Detect faces and their landmarks with YuNet. Thread-safe."""

    name = "yunet"

    def __init__(self, config: DetectorConfig, model_file: Path = MODEL_FILE) -> None:
        """Load the model.

        Args:
            config: device, image size and thresholds.
            model_file: a file of `scripts/make_yunet.py`, or OpenCV Zoo's `face_detection_yunet_2023mar.onnx`.

        Raises:
            DetectorError: if the file is missing or not such a model.
            ConfigError: if the device is not available.
        """
        require(model_file.is_file(), f"detector 'yunet': {model_file}: no such file", DetectorError)
        with reraised(DetectorError, "detector 'yunet'", CheckpointError):
            # Images are processed in several threads.
            self._session = open_session(model_file, device=config.device, threads=1)
        names = {output.name for output in self._session.get_outputs()}
        self._zoo = names >= set(ZOO_OUTPUTS)
        if not self._zoo and not names >= set(OUTPUTS):
            raise DetectorError(
                f"detector 'yunet': {model_file}: not YuNet, whose outputs are {', '.join(ZOO_OUTPUTS)}"
            )
        self._input = self._session.get_inputs()[0]
        # A fixed size limits the images; otherwise height and width are strings.
        self._fixed = [side for side in self._input.shape[2:] if isinstance(side, int)]
        self.config = dataclasses.replace(config, long_side=min([config.long_side, *self._fixed]))
        # On one thread of a CPU, eight images together take as long as one after another.
        self._batches = config.device not in ("auto", "cpu") and not isinstance(self._input.shape[0], int)

    def detect(self, image_hwc_u8: np.ndarray) -> list[Detection]:
        """Detect the faces in an upright RGB image, uint8 (h, w, 3); largest area first."""
        return self.detect_batch([image_hwc_u8])[0]

    def detect_batch(self, images_hwc_u8: Sequence[np.ndarray]) -> list[list[Detection]]:
        """Detect the faces in upright RGB images, uint8 (h, w, 3); images of one size together where that is faster.

        Raises:
            DetectorError: if the model cannot be run, for example because memory is exhausted.
        """
        if not self._batches or len({image.shape for image in images_hwc_u8}) > 1:
            return [detections for image in images_hwc_u8 for detections in self._detect([image])]
        return list(self._detect(images_hwc_u8))

    def _detect(self, images_hwc_u8: Sequence[np.ndarray]) -> Iterator[list[Detection]]:
        resized = [self.config.resize(image) for image in images_hwc_u8]
        pixels_BCHW = self._pixels([small_hwc for small_hwc, _ in resized])
        with reraised(DetectorError, f"detector 'yunet': cannot be run on {len(resized)} image(s)", *session_errors()):
            outputs = self._session.run(ZOO_OUTPUTS if self._zoo else OUTPUTS, {self._input.name: pixels_BCHW})
        threshold = max(self.config.min_score, MIN_SCORE)
        for number, (_, scale) in enumerate(resized):
            of_image = [np.asarray(output)[number] for output in outputs]
            candidates = _zoo_candidates(of_image, threshold) if self._zoo else _candidates(of_image, threshold)
            yield self._faces(candidates, pixels_BCHW.shape[-1], np.array(scale))

    def _pixels(self, images_hwc_u8: Sequence[np.ndarray]) -> np.ndarray:
        """Return images of one size as float32 (B, 3, H, W), padded with zeros at the right and the bottom."""
        import cv2

        height, width = images_hwc_u8[0].shape[:2]
        full = self._fixed or [side + -side % STRIDES[-1] for side in (height, width)]
        pixels_BCHW = np.empty((len(images_hwc_u8), 3, *full), np.float32)
        pixels_BCHW[:, :, height:] = 0
        pixels_BCHW[:, :, :height, width:] = 0
        for pixels_CHW, image_hwc_u8 in zip(pixels_BCHW, images_hwc_u8, strict=True):
            channels = cv2.split(image_hwc_u8)
            for pixels_HW, channel in zip(pixels_CHW, channels[::-1] if self._zoo else channels, strict=True):
                pixels_HW[:height, :width] = channel
        return pixels_BCHW

    def _faces(self, levels: Sequence[Candidates], width: int, scale: np.ndarray) -> list[Detection]:
        """Decode the candidates of every stride in an input of this width, and keep one of those that overlap.

        Args:
            levels: the candidates.
            width: width of the input in pixels.
            scale: factors (horizontal, vertical) from the input to the original.
        """
        import cv2

        found = []
        for stride, (_, cells, outputs) in zip(STRIDES, levels, strict=True):
            corner = np.stack(np.divmod(cells, width // stride)[::-1], axis=-1)
            points = (outputs.reshape(-1, 7, 2) + corner[:, None]) * stride * scale
            size = np.exp(outputs[:, 2:4]) * stride * scale
            points[:, 1] = size
            points[:, 0] -= size / 2
            found.append(points)
        points_N72, scores_N = np.concatenate(found), np.concatenate([scores for scores, _, _ in levels])
        kept = cv2.dnn.NMSBoxes(points_N72[:, :2].reshape(-1, 4).tolist(), scores_N.tolist(), 0, MAX_IOU)
        kept = np.asarray(kept, int)[:MAX_FACES]
        detections = [
            Detection(Box(*position, *size), score, landmarks=tuple((x, y) for x, y in landmarks))
            for (position, size, *landmarks), score in zip(
                points_N72[kept].tolist(), scores_N[kept].tolist(), strict=True
            )
            if min(size) >= self.config.min_face
        ]
        return largest_first(detections)


def _candidates(outputs_CHW: Sequence[np.ndarray], threshold: float) -> list[Candidates]:
    """Return the cells whose score reaches the threshold, from the outputs of our file for one image."""
    # The score is the root of the product of two probabilities, so neither can be below its square.
    least = math.log(threshold**2 / (1 - threshold**2)) if threshold < 1 else math.inf
    levels = []
    for output_CHW in outputs_CHW:
        flat_CN = output_CHW.reshape(len(output_CHW), -1)
        cells = np.flatnonzero((flat_CN[0] >= least) & (flat_CN[1] >= least))
        few_NC = flat_CN[:, cells].T.astype(float)
        scores = np.sqrt(np.prod(1 / (1 + np.exp(-few_NC[:, :2])), axis=1))
        high = scores >= threshold
        levels.append((scores[high], cells[high], few_NC[high, 2:]))
    return levels


def _zoo_candidates(outputs_NC: Sequence[np.ndarray], threshold: float) -> list[Candidates]:
    """Return the cells whose score reaches the threshold, from the outputs of OpenCV Zoo's file for one image."""
    levels = []
    for start in range(0, len(outputs_NC), 4):
        cls_N1, obj_N1, boxes_N4, landmarks_N10 = outputs_NC[start : start + 4]
        scores = np.sqrt(np.clip(cls_N1, 0, 1) * np.clip(obj_N1, 0, 1))[:, 0].astype(float)
        cells = np.flatnonzero(scores >= threshold)
        levels.append((scores[cells], cells, np.hstack([boxes_N4[cells], landmarks_N10[cells]]).astype(float)))
    return levels

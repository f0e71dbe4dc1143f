"""Attention maps of faces, coarse enough to send to the page. Torch is loaded on first use."""

import importlib.util
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from motivnet.checkpoints.bundle import is_bundle, open_bundle
from motivnet.inference.predictor import Predictor
from motivnet.inference.results import FaceResult

if TYPE_CHECKING:
    from motivnet.evaluation.explain import Explainer, Explanation

# A value of 1 is this many times a uniform map, or more if the map has a higher peak: nearly uniform attention must not
# look like a focus.
LOWEST_TOP = 2.0


class Attention:
    """The attention maps of a predictor's faces. Safe to use from several threads at once."""

    def __init__(self, predictor: Predictor, model: str | Path) -> None:
        """Prepare; nothing is loaded yet.

        Args:
            predictor: whose results are explained; its weights are used if its backend is torch.
            model: what it was loaded from.
        """
        self._predictor, self._model = predictor, model
        self._explainer: Explainer | None = None
        self._lock = threading.Lock()

    def load(self) -> "Explainer":
        """Load the weights, once.

        Raises:
            MotivNetError: if they cannot be used.
            ModuleNotFoundError: if torch is incomplete.
        """
        from motivnet.evaluation.explain import Explainer
        from motivnet.inference.torch_backend import TorchBackend

        with self._lock:
            backend = self._predictor.backend
            if self._explainer is None and isinstance(backend, TorchBackend):
                self._explainer = Explainer(self._predictor.config, backend.model)
            self._explainer = self._explainer or Explainer.load(self._model)
            return self._explainer

    def of(self, image_hwc_u8: np.ndarray, face: FaceResult) -> dict[str, Any]:
        """Return the map of a face's emotion.

        Args:
            image_hwc_u8: upright RGB image, uint8 (h, w, 3).
            face: the predictor's result.

        Returns:
            `emotion`; `seen`, the rectangle that the map covers, [x, y, width, height] in pixels of the image; `rows`
            and `columns` of the map; and its `values`, a list of rows, 0 to 1.
        """
        box = None if self._predictor.detector.name == "whole" else face.box
        explanation = self.load().explain(image_hwc_u8, box, score=face.face_score)
        values_ij = coarse_map(explanation, face.emotion)
        return {
            "emotion": face.emotion,
            "seen": [round(value) for value in explanation.seen],
            "rows": values_ij.shape[0],
            "columns": values_ij.shape[1],
            "values": values_ij.astype(float).round(3).tolist(),
        }


def coarse_map(explanation: "Explanation", emotion: str) -> np.ndarray:
    """Crop a map to the photograph, without the padding of the input, and scale it to 0 to 1; float32 (i, j)."""
    import cv2

    from motivnet.evaluation.explain import spread

    map_ij = explanation.maps[emotion]
    height, width = explanation.input_size
    x, y, w, h = (round(value) for value in explanation.filled)
    heat_hw = spread(map_ij, explanation.input_size)[y : y + h, x : x + w]
    rows, columns = max(1, round(map_ij.shape[0] * h / height)), max(1, round(map_ij.shape[1] * w / width))
    values_ij = cv2.resize(heat_hw, (columns, rows), interpolation=cv2.INTER_AREA)
    return (values_ij / max(LOWEST_TOP, float(values_ij.max()))).clip(0, 1)


def find_attention(predictor: Predictor, model: str | Path) -> Attention | None:
    """Return the attention of a predictor; None without ML-Decoder, its torch weights, or torch.

    Args:
        predictor: loaded from `model`.
        model: as for `Predictor.load`.
    """
    has_torch = importlib.util.find_spec("torch") and importlib.util.find_spec("timm")
    has_weights = not is_bundle(model) or open_bundle(model).weights.is_file()
    possible = predictor.config.model.head.kind == "ml_decoder" and has_torch and has_weights
    possible = possible and not predictor.config.preprocessing.align
    return Attention(predictor, model) if possible else None

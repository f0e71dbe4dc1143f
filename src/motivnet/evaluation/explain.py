"""Where a model looks for each emotion: ML-Decoder's cross-attention, on the face as it was photographed.

What is shown, exactly:

- the weights with which the *last* decoder layer took the tokens in; those of the layers before only prepare its
  question;
- the mean over the heads, each of which sums to 1 over the tokens, so that a map does, too;
- of the query that answers the emotion: with fewer queries than classes, the classes of a group have the same map.

Shape suffixes: B images, C channels (pixels) or classes (maps), H height, W width of the model's input, N tokens;
h height, w width, c channels of an image.
"""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from motivnet.checkpoints.bundle import BundleConfig
from motivnet.errors import CheckpointError
from motivnet.faces import FaceDetector, load_detector
from motivnet.images import ColorOrder, ImageLimits, decode_image
from motivnet.inference.backends import softmax
from motivnet.inference.load import Runtime, load_backend
from motivnet.inference.results import FaceResult
from motivnet.inference.torch_backend import TorchBackend
from motivnet.models.ml_decoder import Look, MLDecoder
from motivnet.models.motivnet import MotivNet
from motivnet.preprocess import Box

if TYPE_CHECKING:
    from motivnet.images import ImageSource


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Explanation:
    """A face, its emotion, and where the model looked for each of the emotions.

    Args:
        face: box, emotion and probabilities, as `Predictor` gives them.
        maps: label -> share of attention on every token, float32 (rows, columns) of the token grid; sums to 1.
        seen: the rectangle of the photograph that the model saw, in whole pixels; may reach beyond its edges.
        filled: the rectangle of the model's input that it fills, in pixels; the rest of the input is padding.
        input_size: (height, width) of the model's input, which the token grid covers.
    """

    face: FaceResult
    maps: dict[str, np.ndarray]
    seen: Box
    filled: Box
    input_size: tuple[int, int]

    def heat(self, emotion: str | None = None) -> np.ndarray:
        """Draw a map out over `seen`.

        Args:
            emotion: a label; None takes the face's.

        Returns:
            Attention relative to an even spread over the whole input, float32 (h, w) of the size of `seen`: 1 is
            what every place would get if the model looked everywhere alike.
        """
        import cv2

        heat_HW = spread(self.maps[emotion or self.face.emotion], self.input_size)
        x, y, w, h = (round(value) for value in self.filled)
        seen_w, seen_h = round(self.seen.width), round(self.seen.height)
        return cv2.resize(heat_HW[y : y + h, x : x + w], (seen_w, seen_h), interpolation=cv2.INTER_LINEAR)

    def to_dict(self) -> dict[str, Any]:
        """Give plain data for JSON; rectangles are [x, y, width, height]."""
        maps = {label: map_ij.astype(float).round(6).tolist() for label, map_ij in self.maps.items()}
        return self.face.to_dict() | {"seen": [round(value) for value in self.seen], "maps": maps}


class Explainer:
    """A model that can be asked where it looks."""

    def __init__(self, config: BundleConfig, model: MotivNet) -> None:
        """Wrap a model in torch.

        Args:
            config: its labels, preprocessing and temperature.
            model: in eval mode.

        Raises:
            CheckpointError: if its head has no attention a class.
        """
        head = model.head
        if not isinstance(head, MLDecoder):
            raise CheckpointError(
                f"model {config.name!r} has the head {config.model.head.kind!r}, which asks no question per emotion, "
                "so there is no attention to show. Allowed: ml_decoder"
            )
        self.config = config
        self.model = model
        self.head: MLDecoder = head

    @classmethod
    def load(
        cls,
        model: str | Path = "nano",
        *,
        device: str = "auto",
        dtype: str = "auto",
        image_size: tuple[int, int] | None = None,
        geometry: str | None = None,
        num_heads: int | None = None,
    ) -> "Explainer":
        """Load a model's torch weights; arguments and errors as for `Predictor.load`.

        Raises:
            CheckpointError: also if the model has no torch weights, or another head than ML-Decoder.
        """
        runtime = Runtime(
            backend="torch", device=device, dtype=dtype, image_size=image_size, geometry=geometry, num_heads=num_heads
        )
        config, backend = load_backend(model, runtime)
        assert isinstance(backend, TorchBackend)
        return cls(config, backend.model)

    def explain(self, image_hwc_u8: np.ndarray, box: Box | None = None, *, score: float = 1.0) -> Explanation:
        """Explain the answer to one face.

        Args:
            image_hwc_u8: upright RGB image, uint8 (h, w, 3).
            box: the face, in its pixels; None takes the whole image.
            score: the detector's confidence, which is passed on.
        """
        preprocessing, labels = self.config.preprocessing, self.config.labels.names
        probs_BC, maps_BCN = self.look(preprocessing(image_hwc_u8, box)[None])
        rows, columns = token_grid(preprocessing.size, maps_BCN.shape[2])
        probs = probs_BC[0].tolist()
        height, width = image_hwc_u8.shape[:2]
        seen, filled = preprocessing.placement((height, width), box)
        return Explanation(
            face=FaceResult(
                box or Box(0.0, 0.0, float(width), float(height)),
                score,
                labels[probs.index(max(probs))],
                dict(zip(labels, probs, strict=True)),
            ),
            maps=dict(zip(labels, maps_BCN[0].reshape(-1, rows, columns), strict=True)),
            seen=seen,
            filled=filled,
            input_size=preprocessing.size,
        )

    def look(self, pixels_BCHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give probabilities, float64 (B, C), and attention a class, float32 (B, C, N), of normalised pixels."""
        weight = next(self.model.parameters())
        looks: list[Look] = []
        with torch.inference_mode():
            pixels = torch.tensor(np.ascontiguousarray(pixels_BCHW)).to(weight.device, weight.dtype)
            logits_BC = self.head(self.model.backbone(pixels), looks)
            maps_BCN = class_maps(looks, self.head)
        return softmax(logits_BC.float().cpu().numpy(), self.config.temperature), maps_BCN.float().cpu().numpy()


def class_maps(looks: list[Look], head: MLDecoder) -> Tensor:
    """Give attention a class, (B, C, N), out of what the head's layers did: last layer, mean of heads, its query's."""
    weights_BQN = looks[-1].weights.mean(1)
    classes_per_query = head.group_weight.shape[2]
    return weights_BQN.repeat_interleave(classes_per_query, 1)[:, : head.num_classes]


def explain(
    model: "str | Path | Explainer",
    image: "ImageSource",
    *,
    detector: str | FaceDetector = "libfacedetection",
    color: ColorOrder = "rgb",
    limits: ImageLimits | None = None,
) -> list[Explanation]:
    """Find the faces of an image, and say where the model looks in each.

    Args:
        model: as `Predictor.load` takes it, with torch weights and ML-Decoder; or a loaded `Explainer`, for many
            images.
        image: what `decode_image` takes.
        detector: a name that `load_detector` knows, or a detector; `whole` for an image that is the crop of a face.
        color: colour order of an array.
        limits: sizes beyond which an image is refused; None takes the defaults.

    Returns:
        One explanation a face, largest first; empty if there is none.

    Raises:
        ImageError: if the image cannot be read.
        CheckpointError: if there is no such model, it has no torch weights, or another head.
        DetectorError: if there is no such detector, or it cannot run here.
    """
    image_hwc_u8 = decode_image(image, color=color, limits=limits)
    found = load_detector(detector) if isinstance(detector, str) else detector
    explainer = model if isinstance(model, Explainer) else Explainer.load(model)
    return [
        explainer.explain(image_hwc_u8, detection.crop_box, score=detection.score)
        for detection in found.detect(image_hwc_u8)
    ]


def spread(map_ij: np.ndarray, input_size: tuple[int, int]) -> np.ndarray:
    """Draw a map of shares on the token grid out over the model's input.

    Args:
        map_ij: (rows, columns).
        input_size: (height, width), in pixels.

    Returns:
        Attention relative to an even spread, float32 (H, W).
    """
    import cv2

    height, width = input_size
    # Between the centres of the tokens it is linear, so that nothing appears that no token has.
    relative_ij = (map_ij * map_ij.size).astype(np.float32)
    return cv2.resize(relative_ij, (width, height), interpolation=cv2.INTER_LINEAR)


def token_grid(input_size: tuple[int, int], num_tokens: int) -> tuple[int, int]:
    """Give (rows, columns) of the tokens of an input of (height, width): one stride for both directions makes them.

    Raises:
        CheckpointError: if no stride does.
    """
    height, width = input_size
    for stride in range(1, max(input_size) + 1):
        for rounded in (math.ceil, math.floor):
            rows, columns = rounded(height / stride), rounded(width / stride)
            if rows * columns == num_tokens:
                return rows, columns
    raise CheckpointError(f"{num_tokens} tokens are no grid over an input of {height}x{width}: the map has no places")

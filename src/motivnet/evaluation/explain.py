"""Where a model looks for each emotion: ML-Decoder's cross-attention, on the face as it was photographed.

ML-Decoder asks one question an emotion; attention decides how much of each token goes into the answer. The tokens of a
transformer such as Sapiens stand for places. Those of a small convolutional network do not: each of nano's nine has
seen the whole face, and attention on them says nothing of where in the face (`benchmarks/explain_deletion.py` measures
it). The map of an emotion therefore follows what attention took on to the places where it came from:

- the attention weights, of every layer and head, are taken for constants;
- through them the emotion's logit has a gradient at the deepest feature map of the backbone with at least `MIN_PLACES`
  places on its shorter side; at the tokens themselves, where they are as fine, or nothing before them is;
- there, gradient times feature is summed over channels (as in HiResCAM, arXiv 2011.08891), what speaks against the
  emotion is left out, and the rest is scaled to sum to 1.

Heads are joined by the sum that the model itself makes of them, layers by their sum as well, and classes that share a
query still have maps of their own. The bare weights are there, too: `Explanation.attention` is the last layer's, the
mean of its heads, of the query that answers the emotion.

Shape suffixes: B images, C channels (pixels) or classes (maps), H height, W width of the model's input, N tokens,
Q queries; i, j rows and columns of a map; h height, w width, c channels of an image.
"""

import dataclasses
import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from motivnet.checkpoints.bundle import BundleConfig
from motivnet.config import replace
from motivnet.errors import CheckpointError
from motivnet.faces import FaceDetector, load_detector
from motivnet.images import ColorOrder, ImageLimits, decode_image
from motivnet.inference.backends import load_backend
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.inference.results import FaceResult
from motivnet.inference.torch_backend import TorchBackend
from motivnet.models.ml_decoder import Look, MLDecoder
from motivnet.models.motivnet import MotivNet
from motivnet.preprocess import Box

if TYPE_CHECKING:
    from motivnet.images import ImageSource

# Chosen on FER-2013's PublicTest, where nano's maps of 12 x 12 places find what matters best; 6 x 6 do less well.
MIN_PLACES = 12


class Looked(NamedTuple):
    """What a model made of a batch.

    Attributes:
        probs: probability of every class, float64 (B, C).
        maps: where what speaks for each class came from, float32 (B, C, i, j); each sums to 1, or is 0 throughout
            where nothing does.
        attention: bare weights of each class's query, float32 (B, C, N); each sums to 1.
    """

    probs: np.ndarray
    maps: np.ndarray
    attention: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Explanation:
    """A face, its emotion, and where the model looked for each of the emotions.

    Args:
        face: box, emotion and probabilities, as `Predictor` gives them.
        maps: label -> where what attention found for it came from, float32 (i, j); sums to 1, or is 0 throughout.
        attention: label -> bare weights on the tokens, float32 (i, j) of the token grid; sums to 1.
        seen: the rectangle of the photograph that the model saw, in whole pixels; may reach beyond its edges.
        filled: the rectangle of the model's input that it fills, in pixels; the rest of the input is padding.
        input_size: (height, width) of the model's input, which every map covers.
    """

    face: FaceResult
    maps: dict[str, np.ndarray]
    attention: dict[str, np.ndarray]
    seen: Box
    filled: Box
    input_size: tuple[int, int]

    def heat(self, emotion: str | None = None, *, bare: bool = False) -> np.ndarray:
        """Draw a map out over `seen`.

        Args:
            emotion: a label; None takes the face's.
            bare: the attention weights on the tokens instead of the map.

        Returns:
            The map relative to an even spread over the whole input, float32 (h, w) of the size of `seen`: 1 is what
            every place would get if all counted alike.
        """
        import cv2

        heat_HW = spread((self.attention if bare else self.maps)[emotion or self.face.emotion], self.input_size)
        x, y, w, h = (round(value) for value in self.filled)
        seen_w, seen_h = round(self.seen.width), round(self.seen.height)
        return cv2.resize(heat_HW[y : y + h, x : x + w], (seen_w, seen_h), interpolation=cv2.INTER_LINEAR)

    def to_dict(self) -> dict[str, Any]:
        """Give plain data for JSON; rectangles are [x, y, width, height]."""
        return self.face.to_dict() | {
            "seen": [round(value) for value in self.seen],
            "maps": _plain(self.maps),
            "attention": _plain(self.attention),
        }


class Explainer:
    """A model that can be asked where it looks. Safe to use from several threads at once, one after the other."""

    def __init__(self, config: BundleConfig, model: MotivNet) -> None:
        """Wrap a model in torch.

        Args:
            config: its labels, preprocessing and calibration.
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
        self._stage = _finer_stage(model.backbone.net, config.preprocessing.size)
        # A hook on the model would see the pixels of other threads.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, model: str | Path = "nano", config: PredictorConfig | None = None, **options: Any) -> "Explainer":
        """Load a model's torch weights; arguments and errors as for `Predictor.load`.

        Raises:
            CheckpointError: also if the model has no torch weights, or another head than ML-Decoder.
        """
        config = replace(config or PredictorConfig(), options | {"backend": "torch"})
        bundle, backend = load_backend(model, config)
        assert isinstance(backend, TorchBackend)
        return cls(bundle, backend.model)

    def explain(self, image_hwc_u8: np.ndarray, box: Box | None = None, *, score: float = 1.0) -> Explanation:
        """Explain the answer to one face.

        Args:
            image_hwc_u8: upright RGB image, uint8 (h, w, 3).
            box: the face, in its pixels; None takes the whole image.
            score: the detector's confidence, which is passed on.
        """
        preprocessing, labels = self.config.preprocessing, self.config.labels.names
        looked = self.look(preprocessing(image_hwc_u8, box)[None])
        rows, columns = token_grid(preprocessing.size, looked.attention.shape[2])
        probs = looked.probs[0].tolist()
        height, width = image_hwc_u8.shape[:2]
        seen, filled = preprocessing.placement((height, width), box)
        return Explanation(
            face=FaceResult(
                box or Box(0.0, 0.0, float(width), float(height)),
                score,
                labels[probs.index(max(probs))],
                dict(zip(labels, probs, strict=True)),
            ),
            maps=dict(zip(labels, looked.maps[0], strict=True)),
            attention=dict(zip(labels, looked.attention[0].reshape(-1, rows, columns), strict=True)),
            seen=seen,
            filled=filled,
            input_size=preprocessing.size,
        )

    def look(self, pixels_BCHW: np.ndarray) -> Looked:
        """Give probabilities, maps and attention of normalised pixels, float32 (B, C, H, W)."""
        weight = next(self.model.parameters())
        looks: list[Look] = []
        with self._lock, torch.enable_grad():
            pixels = torch.tensor(np.ascontiguousarray(pixels_BCHW)).to(weight.device, weight.dtype)
            features, tokens_BND = self._features(pixels)
            # Valence and arousal, which may stand behind the logits, are not explained.
            logits_BC = self.head(tokens_BND, looks)[:, : self.head.num_classes]
            # The sum over the images has the gradient of each at its own features.
            gradients = [
                torch.autograd.grad(logit_B.sum(), features, retain_graph=True)[0] for logit_B in logits_BC.unbind(1)
            ]
        relevance = torch.stack([gradient * features.detach() for gradient in gradients], 1)
        maps_BCij = self._places(relevance).clamp(min=0).float().cpu().numpy()
        total_BC11 = maps_BCij.sum((2, 3), keepdims=True)
        return Looked(
            self.config.calibration.probs(logits_BC.detach().float().cpu().numpy()),
            np.divide(maps_BCij, total_BC11, out=np.zeros_like(maps_BCij), where=total_BC11 > 0),
            class_attention(looks, self.head).float().cpu().numpy(),
        )

    def _features(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Give the features that maps are of, where gradients end, and the tokens made of them."""
        caught: list[Tensor] = []

        def begin_anew(module: nn.Module, inputs: Any, output: Any) -> Any:
            if isinstance(output, Tensor) and output.ndim == 4:
                caught.append(output.detach().requires_grad_())
                return caught[-1]
            return None

        if self._stage is None:
            with torch.no_grad():
                tokens_BND = self.model.backbone(pixels_BCHW)
            caught.append(tokens_BND.detach().requires_grad_())
            return caught[0], caught[0]
        handle = self._stage.register_forward_hook(begin_anew)
        try:
            tokens_BND = self.model.backbone(pixels_BCHW)
        finally:
            handle.remove()
        if not caught:
            # Features that are no grid: the tokens have to do.
            self._stage = None
            return self._features(pixels_BCHW)
        return caught[-1], tokens_BND

    def _places(self, relevance: Tensor) -> Tensor:
        """Sum relevance a feature, (B, C, *features), over channels, onto the grid of places: (B, C, i, j)."""
        if self._stage is None:
            return relevance.sum(3).unflatten(2, token_grid(self.config.preprocessing.size, relevance.shape[2]))
        last = getattr(self.model.backbone.net, "output_fmt", "NCHW") == "NHWC"
        return relevance.sum(4 if last else 2)


def _finer_stage(net: nn.Module, input_size: tuple[int, int]) -> nn.Module | None:
    """Find the deepest stage of a timm network with places enough; None if the tokens themselves are as good."""
    stages = getattr(net, "feature_info", None)
    stages = getattr(stages, "info", stages)
    if not isinstance(stages, list) or not stages:
        return None
    fine = [stage for stage in stages if min(input_size) // stage["reduction"] >= MIN_PLACES]
    if not fine or fine[-1] is stages[-1]:
        return None
    return net.get_submodule(fine[-1]["module"])


def class_attention(looks: list[Look], head: MLDecoder) -> Tensor:
    """Give attention a class, (B, C, N): the last layer's weights, the mean of its heads, of the class's query."""
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
    """Draw a map out over the model's input, its places side by side.

    Args:
        map_ij: (rows, columns), which sums to 1.
        input_size: (height, width), in pixels.

    Returns:
        The map relative to an even spread, float32 (H, W).
    """
    import cv2

    height, width = input_size
    # Between the centres of the places it is linear, so that nothing appears that no place has.
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


def _plain(maps: dict[str, np.ndarray]) -> dict[str, list[list[float]]]:
    return {label: map_ij.astype(float).round(6).tolist() for label, map_ij in maps.items()}

"""Explain a model by maps of each emotion over the face: ML-Decoder's cross-attention, traced back to the pixels.

ML-Decoder has a query per emotion; attention decides how much of each token goes into its logit. The tokens of a
transformer such as Sapiens stand for places. Those of a small convolutional network do not: each of nano's nine has
the whole face in its receptive field, and attention on them says nothing about where in the face
(`benchmarks/explain_deletion.py` measures it). The map of an emotion is therefore traced from the attended tokens to
the places that they were computed from:

- the attention weights, of every layer and head, are held constant;
- through them the emotion's logit has a gradient at the deepest feature map of the backbone with at least `MIN_PLACES`
  places on its shorter side; at the tokens themselves, where they are as fine, or nothing before them is;
- there, gradient times feature is summed over channels (as in HiResCAM, arXiv 2011.08891), evidence against the
  emotion is clamped to 0, and the rest is scaled to sum to 1.

Heads are joined by the sum that the model itself makes of them, layers by their sum as well, and classes that share a
query still have maps of their own. `Explanation.attention` holds the bare weights: the last layer's, the mean of its
heads, of the query of the emotion.

Shape suffixes: B images, C channels (pixels) or classes (maps), H height, W width of the model's input, N tokens,
Q queries; i, j rows and columns of a map; h height, w width, c channels of an image.
"""

import dataclasses
import io
import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from motivnet.checkpoints.bundle import BundleConfig
from motivnet.config import replace
from motivnet.errors import CheckpointError, DataError, OutputError, require
from motivnet.faces import FaceDetector
from motivnet.images import decode_image
from motivnet.inference.backends import OUTPUT_NAME, finite, load_backend
from motivnet.inference.predictor import detector_of
from motivnet.inference.predictor_config import PredictorConfig
from motivnet.inference.results import FaceResult
from motivnet.inference.tables import check_output
from motivnet.inference.torch_backend import TorchBackend
from motivnet.models.ml_decoder import AttentionTrace, MLDecoder
from motivnet.models.motivnet import MotivNet
from motivnet.preprocess import Box
from motivnet.storage import write_bytes

if TYPE_CHECKING:
    from motivnet.images import ImageSource

# Chosen on FER-2013's PublicTest, where nano's maps of 12 x 12 places find what matters best; 6 x 6 do less well.
MIN_PLACES = 12


class Attribution(NamedTuple):
    """The probabilities of a batch, and the maps that explain them.

    Attributes:
        probs: probability of every class, float64 (B, C).
        maps: evidence for each class by place, float32 (B, C, i, j); each sums to 1, or is 0 throughout where there is
            none.
        attention: bare weights of each class's query, float32 (B, C, N); each sums to 1.
    """

    probs: np.ndarray
    maps: np.ndarray
    attention: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Explanation:
    """A face, its emotion, and a map per emotion of the evidence for it.

    Args:
        face: box, emotion and probabilities, as of `Predictor`.
        maps: label -> evidence for it by place, float32 (i, j); sums to 1, or is 0 throughout.
        attention: label -> bare weights on the tokens, float32 (i, j) of the token grid; sums to 1.
        seen: the rectangle of the photograph in the model's input, in whole pixels; may reach beyond its edges.
        filled: the rectangle of the model's input that it fills, in pixels; the rest of the input is padding.
        input_size: (height, width) of the model's input, which every map covers.
    """

    face: FaceResult
    maps: dict[str, np.ndarray]
    attention: dict[str, np.ndarray]
    seen: Box
    filled: Box
    input_size: tuple[int, int]

    def heat(self, emotion: str | None = None) -> np.ndarray:
        """Resize a map to `seen`.

        Args:
            emotion: a label; None takes the face's.

        Returns:
            The map relative to a uniform one over the whole input, float32 (h, w) of the size of `seen`: 1 is the value
            of every place of a uniform map.
        """
        heat_HW = spread(self.maps[emotion or self.face.emotion], self.input_size)
        x, y, w, h = (round(value) for value in self.filled)
        seen_w, seen_h = round(self.seen.width), round(self.seen.height)
        return cv2.resize(heat_HW[y : y + h, x : x + w], (seen_w, seen_h), interpolation=cv2.INTER_LINEAR)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; rectangles are [x, y, width, height]."""
        return self.face.to_dict() | {
            "seen": [round(value) for value in self.seen],
            "maps": _plain(self.maps),
            "attention": _plain(self.attention),
        }


class Explainer:
    """A model that explains its predictions. Safe to use from several threads, which take turns."""

    def __init__(self, config: BundleConfig, model: MotivNet) -> None:
        """Wrap a model in torch.

        Args:
            config: its labels, preprocessing and calibration.
            model: in eval mode.

        Raises:
            CheckpointError: if its head has no attention per class.
        """
        head = model.head
        require(not config.model.num_frames, f"{config.name} is a model of clips. Allowed: a model of images")
        if not isinstance(head, MLDecoder):
            raise CheckpointError(
                f"model {config.name!r} has the head {config.model.head.kind!r}, which has no query per emotion, so "
                "there is no attention to show. Allowed: ml_decoder"
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

    def explain(self, image_hwc_u8: np.ndarray, box: Box | None = None, *, score: float | None = None) -> Explanation:
        """Explain the prediction for one face.

        Args:
            image_hwc_u8: upright RGB image, uint8 (h, w, 3).
            box: the face, in its pixels; None takes the whole image.
            score: the detector's confidence, for the result; None for a box that is no detector's.

        Raises:
            ImageError: if a box that is no detector's is not at least half in the image.
        """
        if box is not None and score is None:
            box.inside(image_hwc_u8.shape)
        preprocessing, labels = self.config.preprocessing, self.config.labels.names
        found = self.attribute(preprocessing(image_hwc_u8, box)[None])
        rows, columns = token_grid(preprocessing.size, found.attention.shape[2])
        probs = found.probs[0].tolist()
        height, width = image_hwc_u8.shape[:2]
        seen, filled = preprocessing.placement((height, width), box)
        return Explanation(
            face=FaceResult(
                box or Box(0.0, 0.0, float(width), float(height)),
                1.0 if score is None else score,
                labels[probs.index(max(probs))],
                dict(zip(labels, probs, strict=True)),
            ),
            maps=dict(zip(labels, found.maps[0], strict=True)),
            attention=dict(zip(labels, found.attention[0].reshape(-1, rows, columns), strict=True)),
            seen=seen,
            filled=filled,
            input_size=preprocessing.size,
        )

    def attribute(self, pixels_BCHW: np.ndarray) -> Attribution:
        """Return probabilities, maps and attention of normalised pixels, float32 (B, C, H, W)."""
        weight = next(self.model.parameters())
        traces: list[AttentionTrace] = []
        with self._lock, torch.enable_grad():
            pixels = torch.tensor(np.ascontiguousarray(pixels_BCHW)).to(weight.device, weight.dtype)
            features, tokens_BND = self._features(pixels)
            # Valence and arousal, which may follow the logits, are not explained.
            logits_BC = self.head(tokens_BND, traces)[:, : self.head.num_classes]
            # The sum over the images has the gradient of each at its own features.
            gradients = [
                torch.autograd.grad(logit_B.sum(), features, retain_graph=True)[0] for logit_B in logits_BC.unbind(1)
            ]
        relevance = torch.stack([gradient * features.detach() for gradient in gradients], 1)
        maps_BCij = self._places(relevance).clamp(min=0).float().cpu().numpy()
        total_BC11 = maps_BCij.sum((2, 3), keepdims=True)
        logits = finite(self.config, OUTPUT_NAME, logits_BC.detach().float().cpu().numpy(), tuple(logits_BC.shape))
        return Attribution(
            self.config.calibration.probs(logits),
            np.divide(maps_BCij, total_BC11, out=np.zeros_like(maps_BCij), where=total_BC11 > 0),
            class_attention(traces, self.head).float().cpu().numpy(),
        )

    def _features(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features that maps are of, detached from what they were computed from, and the tokens."""
        caught: list[Tensor] = []

        def detach_output(module: nn.Module, inputs: Any, output: Any) -> Any:
            if isinstance(output, Tensor) and output.ndim == 4:
                caught.append(output.detach().requires_grad_())
                return caught[-1]
            return None

        if self._stage is None:
            with torch.no_grad():
                tokens_BND = self.model.backbone(pixels_BCHW)
            caught.append(tokens_BND.detach().requires_grad_())
            return caught[0], caught[0]
        with self._stage.register_forward_hook(detach_output):
            tokens_BND = self.model.backbone(pixels_BCHW)
        if not caught:
            # The features are not a grid: fall back to the tokens.
            self._stage = None
            return self._features(pixels_BCHW)
        return caught[-1], tokens_BND

    def _places(self, relevance: Tensor) -> Tensor:
        """Sum relevance, (B, C, *features), over channels, onto the grid of places, (B, C, i, j)."""
        if self._stage is None:
            return relevance.sum(3).unflatten(2, token_grid(self.config.preprocessing.size, relevance.shape[2]))
        last = getattr(self.model.backbone.net, "output_fmt", "NCHW") == "NHWC"
        return relevance.sum(4 if last else 2)


def _finer_stage(net: nn.Module, input_size: tuple[int, int]) -> nn.Module | None:
    """Return the deepest stage of a timm network with enough places; None if the tokens themselves are as fine."""
    stages = getattr(net, "feature_info", None)
    stages = getattr(stages, "info", stages)
    if not isinstance(stages, list) or not stages:
        return None
    fine = [stage for stage in stages if min(input_size) // stage["reduction"] >= MIN_PLACES]
    if not fine or fine[-1] is stages[-1]:
        return None
    return net.get_submodule(fine[-1]["module"])


def class_attention(traces: list[AttentionTrace], head: MLDecoder) -> Tensor:
    """Return attention per class, (B, C, N): the last layer's weights, averaged over heads, of the class's query."""
    weights_BQN = traces[-1].weights.mean(1)
    classes_per_query = head.group_weight.shape[2]
    return weights_BQN.repeat_interleave(classes_per_query, 1)[:, : head.num_classes]


def explain(
    model: "str | Path | Explainer",
    image: "ImageSource",
    *,
    out: Path | None = None,
    emotion: str | None = None,
    overwrite: bool = False,
    detector: str | FaceDetector | None = None,
    config: PredictorConfig | None = None,
) -> list[Explanation]:
    """Explain the emotion of every face in an image, and draw the maps; what `motivnet explain` does.

    Args:
        model: as `Predictor.load` takes it, with torch weights and ML-Decoder; or a loaded `Explainer`, for many
            images.
        image: as of `decode_image`.
        out: PNG file to draw the maps to; None draws nothing.
        emotion: draw this one alone, larger; None draws all.
        overwrite: replace `out`.
        detector: a name that `load_detector` knows, or a detector; None takes that of `config`.
        config: options of the predictor; None takes the defaults.

    Returns:
        One explanation per face, largest first; empty if there is none.

    Raises:
        ImageError: if the image cannot be read.
        CheckpointError: if there is no such model, it has no torch weights, or another head.
        DetectorError: if there is no such detector, or it cannot run here.
        DataError: if there is no such emotion, or no face to draw.
        OutputError: if `out` exists, or cannot be written.
    """
    if out is not None:
        check_output(out, overwrite=overwrite, formats=(".png",))
        if isinstance(image, (str, Path)) and out.resolve() == Path(image).resolve():
            raise OutputError(f"{out}: is the photograph itself")
    config = config or PredictorConfig()
    image_hwc_u8 = decode_image(image)
    explainer = model if isinstance(model, Explainer) else Explainer.load(model, config)
    labels = explainer.config.labels
    name = labels.names[labels.index(emotion)] if emotion else None
    if detector is None or isinstance(detector, str):
        detector = detector_of(config if detector is None else replace(config, {"detector": detector}))
    detections = detector.detect(image_hwc_u8)
    found = [explainer.explain(image_hwc_u8, each.crop_box, score=each.score) for each in detections]
    if out is not None:
        require(found, "no face found; --detector whole takes the whole image for one", DataError)
        from motivnet.report.heatmaps import draw_explanations

        note = f"{explainer.config.name}, evidence for the emotion, traced through attention to its place"
        fill, picture = explainer.config.preprocessing.fill, io.BytesIO()
        draw_explanations(image_hwc_u8, found, name, fill=fill, note=note).save(picture, format="PNG")
        write_bytes(out, picture.getvalue())
    return found


def spread(map_ij: np.ndarray, input_size: tuple[int, int]) -> np.ndarray:
    """Resize a map to the model's input.

    Args:
        map_ij: (rows, columns), which sums to 1.
        input_size: (height, width), in pixels.

    Returns:
        The map relative to a uniform one, float32 (H, W).
    """
    height, width = input_size
    # Between the centres of the places it is linear, so that nothing appears that no place has.
    relative_ij = (map_ij * map_ij.size).astype(np.float32)
    return cv2.resize(relative_ij, (width, height), interpolation=cv2.INTER_LINEAR)


def token_grid(input_size: tuple[int, int], num_tokens: int) -> tuple[int, int]:
    """Return (rows, columns) of the tokens of an input of (height, width), of one stride in both directions.

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

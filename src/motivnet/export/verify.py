"""Does the exported model answer as the original does?

Shape suffixes: B images, C channels, H height, W width.
"""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from motivnet.checkpoints.bundle import Bundle, Calibration
from motivnet.checkpoints.load import load_bundle
from motivnet.errors import ExportError
from motivnet.export.onnx import outputs_torch
from motivnet.inference.backends import OnnxBackend, Outputs
from motivnet.labels import AFFECT
from motivnet.models.config import ModelConfig

# By the precision that the weights are stored in: the largest difference from torch in float32 of a probability, or of
# valence and arousal.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}

# As many random pixels as are worth their time: 10 images of 224x224, and 2 of 1024x768.
NUM_PIXELS = 2**19
MIN_IMAGES, MAX_IMAGES = 2, 16


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How far two forms of a model differ.

    Args:
        num_faces: compared.
        largest: absolute difference of any probability, and of valence and arousal.
    """

    num_faces: int
    largest: float


def verify_onnx(
    bundle: Bundle,
    pixels_BCHW: np.ndarray | None = None,
    *,
    onnx: Path | None = None,
    dtype: torch.dtype = torch.float32,
    tolerance: float | None = None,
) -> Agreement:
    """Compare torch in float32 with onnxruntime on the same pixels, at several batch sizes.

    Args:
        bundle: with safetensors and ONNX.
        pixels_BCHW: float32 normalised faces; None takes 2 to 16 random ones, fewer the larger they are.
        onnx: the exported file; None takes the bundle's own.
        dtype: that it was exported in.
        tolerance: largest allowed difference; None takes that of `dtype` in `TOLERANCES`.

    Raises:
        CheckpointError: if weights or ONNX are missing, damaged, or of another model.
        ExportError: if they differ by more.
    """
    if pixels_BCHW is None:
        pixels_BCHW = random_pixels(bundle.config.model)
    if tolerance is None:
        tolerance = TOLERANCES[dtype]
    # Torch's copy of the weights is gone before onnxruntime makes its own.
    calibration = bundle.config.calibration
    expected = _answers(calibration, outputs_torch(load_bundle(bundle), torch.from_numpy(pixels_BCHW)))
    backend = OnnxBackend(bundle, path=onnx)
    largest = 0.0
    for batch_size in {1, min(3, len(pixels_BCHW)), len(pixels_BCHW)}:
        found = _answers(calibration, backend.outputs(pixels_BCHW[:batch_size]))
        # Not Python's max, which would pass over NaN.
        largest = float(np.maximum(largest, np.abs(found - expected[:batch_size]).max()))
    if not largest <= tolerance:
        raise ExportError(
            f"{onnx or bundle.onnx}: {_what(bundle)} differ from torch by {largest:.2e}, allowed is {tolerance:.0e}"
        )
    return Agreement(num_faces=len(pixels_BCHW), largest=largest)


def _answers(calibration: Calibration, outputs: Outputs) -> np.ndarray:
    """Give probabilities, and valence and arousal if there are any, side by side."""
    probs_BC = calibration.probs(outputs.logits)
    return probs_BC if outputs.affect is None else np.concatenate([probs_BC, outputs.affect], 1)


def _what(bundle: Bundle) -> str:
    return f"probabilities, {' or '.join(AFFECT)}" if bundle.config.model.affect else "probabilities"


def random_pixels(config: ModelConfig) -> np.ndarray:
    """Draw float32 normalised images, (B, C, H, W): enough to compare two forms of a model by."""
    height, width = config.image_size
    num_images = min(max(NUM_PIXELS // (height * width), MIN_IMAGES), MAX_IMAGES)
    shape = (num_images, config.in_chans, height, width)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)

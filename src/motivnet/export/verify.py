"""Compares an exported model with the original.

Shape suffixes: B images, C channels, H height, W width.
"""

from pathlib import Path

import numpy as np
import torch

from motivnet.checkpoints.bundle import Bundle, BundleConfig
from motivnet.checkpoints.load import load_bundle
from motivnet.errors import ExportError
from motivnet.inference.backends import OnnxBackend, Outputs
from motivnet.labels import AFFECT
from motivnet.models.config import ModelConfig

# Storage precision -> largest allowed difference from torch in float32, of probabilities, valence and arousal.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}

# Number of random pixels to compare on: 10 images of 224x224, or 2 of 1024x768.
NUM_PIXELS = 2**19
MIN_IMAGES, MAX_IMAGES = 2, 16


def verify_onnx(
    bundle: Bundle,
    pixels_BCHW: np.ndarray | None = None,
    *,
    onnx: Path | None = None,
    dtype: torch.dtype = torch.float32,
    tolerance: float | None = None,
) -> float:
    """Compare torch in float32 with onnxruntime on the same pixels, at several batch sizes.

    Args:
        bundle: with safetensors and ONNX.
        pixels_BCHW: normalised faces, float32; None takes 2 to 16 random ones, depending on their size.
        onnx: the exported file; None takes that of the bundle.
        dtype: its storage precision.
        tolerance: largest allowed difference; None takes that of `dtype` in `TOLERANCES`.

    Returns:
        The largest absolute difference of any probability, valence or arousal.

    Raises:
        CheckpointError: if weights or ONNX are missing, damaged, or of another model.
        ExportError: if they differ by more.
    """
    if pixels_BCHW is None:
        pixels_BCHW = random_pixels(bundle.config.model)
    if tolerance is None:
        tolerance = TOLERANCES[dtype]
    # Torch's copy of the weights is released before onnxruntime makes its own.
    with torch.inference_mode():
        logits, affect = load_bundle(bundle).outputs(torch.from_numpy(pixels_BCHW))
    expected = _predict(bundle.config, Outputs(logits.float().numpy(), None if affect is None else affect.numpy()))
    backend = OnnxBackend(bundle, path=onnx)
    largest = 0.0
    for batch_size in {1, min(3, len(pixels_BCHW)), len(pixels_BCHW)}:
        found = _predict(bundle.config, backend.outputs(pixels_BCHW[:batch_size]))
        # Not Python's max, which would ignore NaN.
        largest = float(np.maximum(largest, np.abs(found - expected[:batch_size]).max()))
    if not largest <= tolerance:
        compared = f"probabilities, {' or '.join(AFFECT)}" if bundle.config.model.affect else "probabilities"
        raise ExportError(
            f"{onnx or bundle.onnx}: {compared} differ from torch by {largest:.2e}, allowed is {tolerance:.0e}"
        )
    return largest


def _predict(config: BundleConfig, outputs: Outputs) -> np.ndarray:
    """Return probabilities, and valence and arousal if there are any, side by side."""
    probs_BC = config.calibration.probs(outputs.logits)
    return probs_BC if outputs.affect is None else np.concatenate([probs_BC, outputs.affect], 1)


def random_pixels(config: ModelConfig) -> np.ndarray:
    """Draw random normalised images, float32 (B, C, H, W)."""
    height, width = config.image_size
    num_images = min(max(NUM_PIXELS // (height * width), MIN_IMAGES), MAX_IMAGES)
    shape = (num_images, config.in_chans, height, width)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)

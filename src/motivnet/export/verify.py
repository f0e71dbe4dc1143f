"""Does the exported model answer as the original does?

Shape suffixes: B images, C channels, H height, W width.
"""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from motivnet.checkpoints.bundle import Bundle
from motivnet.checkpoints.load import load_model
from motivnet.errors import ExportError
from motivnet.export.onnx import probs_torch
from motivnet.inference.backends import OnnxBackend, softmax

TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How far two forms of a model differ.

    Args:
        num_faces: compared.
        largest: absolute difference of any probability.
    """

    num_faces: int
    largest: float


def verify_onnx(
    bundle: Bundle,
    pixels_BCHW: np.ndarray | None = None,
    *,
    onnx: Path | None = None,
    tolerance: float = TOLERANCE,
) -> Agreement:
    """Compare torch with onnxruntime on the same pixels, at several batch sizes.

    Args:
        bundle: with safetensors and ONNX.
        pixels_BCHW: float32 normalised faces; None takes 16 random ones.
        onnx: the exported file; None takes the bundle's own.
        tolerance: largest allowed difference of a probability.

    Raises:
        ExportError: if they differ by more.
    """
    settings = bundle.config.model
    if pixels_BCHW is None:
        shape = (16, settings.in_chans, *settings.image_size)
        pixels_BCHW = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = probs_torch(load_model(bundle.path), torch.from_numpy(pixels_BCHW)).numpy()
    backend = OnnxBackend(bundle, path=onnx)
    largest = 0.0
    for batch_size in {1, 3, len(pixels_BCHW)}:
        found = softmax(backend.logits(pixels_BCHW[:batch_size]))
        largest = max(largest, float(np.abs(found - expected[:batch_size]).max()))
    if not largest <= tolerance:
        raise ExportError(
            f"{onnx or bundle.onnx}: probabilities differ from torch by {largest:.2e}, allowed is {tolerance:.0e}"
        )
    return Agreement(num_faces=len(pixels_BCHW), largest=largest)

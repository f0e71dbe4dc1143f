"""A model as ONNX: batch of any size in, logits out, labels and preprocessing in its metadata.

Shape suffixes: B images, C channels or classes, H height, W width.
"""

import contextlib
import copy
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn

from motivnet import config
from motivnet.checkpoints.bundle import Bundle
from motivnet.checkpoints.load import load_model

INPUT_NAME = "pixels"
OUTPUT_NAME = "logits"
# The newest opset that the oldest onnxruntime we allow can run.
OPSET = 20


def export_onnx(bundle: Bundle, path: Path | None = None) -> Path:
    """Write a bundle's weights as ONNX.

    Args:
        bundle: what to export.
        path: the file; None takes the bundle's own place for it.

    Returns:
        The file.
    """
    path = path or bundle.onnx
    model = load_model(bundle.path)
    height, width = bundle.config.model.image_size
    # Two images, since torch would take a batch of one for a constant.
    pixels_BCHW = torch.zeros(2, bundle.config.model.in_chans, height, width)
    with _quiet():
        program = torch.onnx.export(
            copy.deepcopy(model),
            (pixels_BCHW,),
            dynamo=True,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=OPSET,
        )
    assert program is not None
    # The exporter notes at every node the stack that made it, with the paths of this machine's files.
    ClearMetadataAndDocStringPass()(program.model)
    proto = program.model_proto
    onnx.helper.set_model_props(proto, metadata(bundle))
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)
    return path


def metadata(bundle: Bundle) -> dict[str, str]:
    """Give what an ONNX file says of itself, so that it can be used without its bundle."""
    return {
        "name": bundle.config.name,
        "labels": json.dumps(list(bundle.config.labels)),
        "preprocessing": json.dumps(config.to_plain(bundle.config.preprocessing)),
        "fingerprint": bundle.config.preprocessing.fingerprint,
        "licence": bundle.config.licence,
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's exporter from printing its progress and from logging what it could not optimise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def probs_torch(model: nn.Module, pixels_BCHW: Tensor) -> Tensor:
    """Give a torch model's probabilities, (B, C)."""
    with torch.inference_mode():
        return model(pixels_BCHW).float().softmax(1)

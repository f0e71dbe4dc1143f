"""Smaller ONNX files of a bundle: static int8 (QDQ) by onnxruntime's quantiser, and float16 by its converter.

int8: weights are symmetric, with a scale for each output channel, and in 7 bits; activations are unsigned bytes, whose
ranges are found on faces. CPUs with AVX2 and without VNNI add pairs of products in 16 bits, which overflow with weights
of 8 bits: 7 bits are right on every CPU.

float16: weights and arithmetic; input and output stay float32. For hardware that computes in half precision.

Shape suffixes: B images, C channels, H height, W width.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from motivnet.checkpoints.bundle import Bundle
from motivnet.errors import ExportError
from motivnet.export.onnx import data_path, quiet
from motivnet.export.quantization_config import MIN_FACES, QuantizationConfig
from motivnet.inference.backends import INPUT_NAME, OnnxBackend


def require_quantizable(bundle: Bundle) -> OnnxBackend:
    """Return a bundle's float32 model, if it can be quantised.

    Raises:
        CheckpointError: if the bundle has no ONNX file, or it is damaged.
        ExportError: if its weights are in a file of their own.
    """
    backend = OnnxBackend(bundle)
    if data_path(bundle.onnx).exists():
        raise ExportError(f"{data_path(bundle.onnx)}: only models whose weights are in the ONNX file are quantised")
    return backend


def quantize_onnx(bundle: Bundle, path: Path, settings: QuantizationConfig, pixels_BCHW: np.ndarray) -> None:
    """Write the ONNX file of a bundle in a smaller precision, with its metadata.

    Args:
        bundle: which `require_quantizable` allows.
        path: of the new file.
        settings: how.
        pixels_BCHW: normalised faces, float32, on which the ranges of int8 are found.

    Raises:
        ExportError: if the model has no operator that can be quantised.
    """
    with tempfile.TemporaryDirectory() as folder, quiet():
        # Folds batch norm and casts, and infers shapes; symbolic inference would need sympy.
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(bundle.onnx, prepared, skip_symbolic_shape=True)
        if settings.precision == "fp16":
            model = convert_float_to_float16(onnx.load(prepared), keep_io_types=True)
        else:
            model = _int8(prepared, settings, pixels_BCHW)
    stored = {tensor.data_type for tensor in model.graph.initializer}
    if settings.precision == "int8" and onnx.TensorProto.INT8 not in stored:
        raise ExportError(f"{bundle.onnx}: has no convolution or matrix product, so nothing can be quantised")
    props = {entry.key: entry.value for entry in onnx.load(bundle.onnx, load_external_data=False).metadata_props}
    onnx.helper.set_model_props(model, props | {"stored_in": settings.precision})
    onnx.save(model, path)


def _int8(prepared: Path, settings: QuantizationConfig, pixels_BCHW: np.ndarray) -> onnx.ModelProto:
    written = prepared.with_name("int8.onnx")
    convolutions = [node.name for node in onnx.load(prepared).graph.node if node.op_type == "Conv"]
    quantize_static(
        prepared,
        written,
        _Faces(pixels_BCHW),
        per_channel=True,
        reduce_range=settings.reduce_range,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        # Not the only one: a model of one convolution is quantised whole.
        nodes_to_exclude=convolutions[: min(settings.float_convolutions, len(convolutions) - 1)],
        calibrate_method=CalibrationMethod.Percentile,
        extra_options={"WeightSymmetric": True, "CalibPercentile": settings.percentile},
    )
    return onnx.load(written)


class _Faces(CalibrationDataReader):
    def __init__(self, pixels_BCHW: np.ndarray) -> None:
        starts = range(0, len(pixels_BCHW), MIN_FACES)
        self._batches = iter([{INPUT_NAME: pixels_BCHW[start : start + MIN_FACES]} for start in starts])

    def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
        return next(self._batches, None)

"""A model as ONNX: batch of any size in, logits out; labels, preprocessing and calibration in its metadata.

A model of valence and arousal has these as a second output, `affect`, and its metadata name them in order.

Weights over 1 GB stand beside the file, as `model.onnx.data` beside `model.onnx`; one file could not hold 2 GB. The
graph names them without a folder: the pair can be moved, but the weights cannot be renamed.

In half precision only the storage is halved: each matrix is kept in float16 or bfloat16 and cast to float32 on loading.
Input, arithmetic and output stay float32, because onnxruntime's CPU provider has next to no kernels for the rest: it
refuses a graph in bfloat16 (whose first convolution needs opset 22) and runs one in float16 by casting around most
nodes, more slowly than float32.

Shape suffixes: B images, C channels or classes, H height, W width.
"""

import contextlib
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor

from motivnet import config
from motivnet.checkpoints.bundle import Bundle, Calibration
from motivnet.checkpoints.load import load_bundle
from motivnet.errors import ExportError, OutputError
from motivnet.inference.backends import AFFECT_NAME, CALIBRATION_KEY, INPUT_NAME, OUTPUT_NAME, Outputs
from motivnet.labels import AFFECT
from motivnet.models.motivnet import AllOutputs, MotivNet

# The newest opset that the oldest onnxruntime we allow can run.
OPSET = 20

PRECISIONS = {
    torch.float32: onnx_ir.DataType.FLOAT,
    torch.float16: onnx_ir.DataType.FLOAT16,
    torch.bfloat16: onnx_ir.DataType.BFLOAT16,
}
# What takes matrices. Biases, norms, positions and rotary tables are small, and lose more by rounding.
MATRIX_OPS = {"Conv", "Gemm", "MatMul", "Split"}

# One file may hold 2 GiB, but is put together in memory, at four times its size. Weights apart are written one by one.
MAX_INLINE_BYTES = 1_000_000_000


def export_onnx(
    bundle: Bundle,
    path: Path | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    external_data: bool = False,
) -> Path:
    """Write a bundle's weights as ONNX, complete or not at all.

    Args:
        bundle: what to export.
        path: the file; None takes the bundle's own place for it. One that exists is replaced, with its data.
        dtype: to store matrices in: float32, or float16 or bfloat16 for half the size at the same speed.
        external_data: put the weights into a file beside it in any case, not only where they are too large.

    Returns:
        The file.

    Raises:
        CheckpointError: if the weights are missing, damaged, or too large for the memory that is free.
        ConfigError: if they do not fit the model.
        ExportError: at another dtype, or an architecture that torch cannot export.
        OutputError: if the file cannot be written.
    """
    if dtype not in PRECISIONS:
        raise ExportError(f"dtype {dtype}. Allowed: {', '.join(map(str, PRECISIONS))}")
    path = path or bundle.onnx
    try:
        with _finished(path) as unfinished:
            _write(bundle, unfinished, dtype, external_data=external_data)
            # By its path, since what is over 2 GB cannot be handed over.
            onnx.checker.check_model(str(unfinished), full_check=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path


def data_path(path: Path) -> Path:
    """Give the place of an ONNX file's external data, which need not exist."""
    return path.with_name(f"{path.name}.data")


def metadata(bundle: Bundle, dtype: torch.dtype) -> dict[str, str]:
    """Give what an ONNX file says of itself, so that it can be used without its bundle."""
    return {
        "name": bundle.config.name,
        "labels": json.dumps(list(bundle.config.labels)),
        "preprocessing": json.dumps(config.to_plain(bundle.config.preprocessing)),
        "fingerprint": bundle.config.preprocessing.fingerprint,
        "licence": bundle.config.licence,
        "stored_in": str(dtype).removeprefix("torch."),
        CALIBRATION_KEY: json.dumps(config.to_plain(bundle.config.calibration)),
        **({AFFECT_NAME: json.dumps(AFFECT)} if bundle.config.model.affect else {}),
    }


def state_calibration(path: Path, calibration: Calibration) -> None:
    """Bring the calibration that an ONNX file states up to date; its weights, inside or beside it, stay.

    Raises:
        OutputError: if the file cannot be written.
    """
    model = onnx.load(path, load_external_data=False)
    props = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, props | {CALIBRATION_KEY: json.dumps(config.to_plain(calibration))})
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(model.SerializeToString())
        unfinished.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def _write(bundle: Bundle, path: Path, dtype: torch.dtype, *, external_data: bool) -> None:
    model = _trace(bundle)
    _store_matrices(model.graph, PRECISIONS[dtype])
    model.metadata_props.update(metadata(bundle, dtype))
    weights = [value.const_value for value in model.graph.initializers.values()]
    size = sum(tensor.nbytes for tensor in weights if tensor is not None)
    external = external_data or size > MAX_INLINE_BYTES
    onnx_ir.save(model, path, external_data=data_path(path).name if external else None)


def _trace(bundle: Bundle) -> onnx_ir.Model:
    """Make the graph, whose weights are views of the loaded ones: no copy is made."""
    model, affect = load_bundle(bundle), bundle.config.model.affect
    height, width = bundle.config.model.image_size
    # Two images, since torch would take a batch of one for a constant.
    pixels_BCHW = torch.zeros(2, bundle.config.model.in_chans, height, width)
    try:
        with _quiet():
            program = torch.onnx.export(
                AllOutputs(model) if affect else model,
                (pixels_BCHW,),
                dynamo=True,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME, AFFECT_NAME] if affect else [OUTPUT_NAME],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                opset_version=OPSET,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ExportError(f"{bundle.path}: torch cannot export {bundle.config.model.backbone}: {reason}") from None
    assert program is not None
    # The exporter notes at every node the stack that made it, with the paths of this machine's files.
    ClearMetadataAndDocStringPass()(program.model)
    return program.model


def _store_matrices(graph: onnx_ir.Graph, dtype: onnx_ir.DataType) -> None:
    """Keep a graph's matrices in `dtype`, each with a cast to float32 behind it. Converted one by one, on writing."""
    if dtype == onnx_ir.DataType.FLOAT:
        return
    first = graph[0]
    for name, value in list(graph.initializers.items()):
        if value.dtype != onnx_ir.DataType.FLOAT or not any(user.op_type in MATRIX_OPS for user in value.consumers()):
            continue
        if value.const_value is None or value.shape is None or len(value.shape) < 2:
            continue
        stored = onnx_ir.Value(name=f"{name}.stored", shape=value.shape, type=onnx_ir.TensorType(dtype))
        stored.const_value = _converted(value.const_value, dtype)
        cast = onnx_ir.node("Cast", [stored], {"to": onnx_ir.DataType.FLOAT})
        output = cast.outputs[0]
        output.shape, output.type = value.shape, value.type
        value.replace_all_uses_with(output)
        del graph.initializers[name]
        output.name = name
        graph.initializers.add(stored)
        graph.insert_before(first, cast)


def _converted(tensor: onnx_ir.TensorProtocol, dtype: onnx_ir.DataType) -> onnx_ir.LazyTensor:
    def convert() -> onnx_ir.Tensor:
        return onnx_ir.Tensor(tensor.numpy().astype(dtype.numpy()), dtype=dtype)

    return onnx_ir.LazyTensor(convert, dtype=dtype, shape=onnx_ir.Shape(tensor.shape.numpy()))


@contextlib.contextmanager
def _finished(path: Path) -> Iterator[Path]:
    """Give a place to write to; what stands there at the end, weights beside it included, takes the place of `path`."""
    folder = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    folder.mkdir()
    try:
        unfinished = folder / path.name
        yield unfinished
        if data_path(unfinished).exists():
            # Should this be interrupted, then no graph must be left with another one's weights.
            path.unlink(missing_ok=True)
            data_path(unfinished).replace(data_path(path))
            unfinished.replace(path)
        else:
            unfinished.replace(path)
            data_path(path).unlink(missing_ok=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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


def outputs_torch(model: MotivNet, pixels_BCHW: Tensor) -> Outputs:
    """Give all that a model in torch says of normalised pixels."""
    with torch.inference_mode():
        logits, affect = model.outputs(pixels_BCHW)
        return Outputs(logits.float().numpy(), None if affect is None else affect.numpy())

"""Export to ONNX: a batch of any size in, logits out; labels, preprocessing and calibration in the metadata.

A model of valence and arousal has a second output, `affect`, whose columns are named in the metadata.

Weights over 1 GB are stored in a separate file, `model.onnx.data` beside `model.onnx`; one file cannot exceed 2 GB. The
graph refers to it without a folder: both can be moved together, but the data file cannot be renamed.

Half precision applies to storage only: each matrix is stored in float16 or bfloat16 and cast to float32 on loading. In
float32, the matrices that float16 holds without loss are stored so too: all those of a bundle in half precision.
Input, arithmetic and output stay float32, because the CPU provider of onnxruntime has hardly any kernels for the rest:
it rejects a graph in bfloat16 (whose first convolution needs opset 22) and runs one in float16 with casts around most
nodes, more slowly than float32.

Shape suffixes: B images, C channels or classes, H height, W width.
"""

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from motivnet import config
from motivnet.checkpoints.bundle import ONNX_NAMES, Bundle, BundleConfig, Calibration
from motivnet.checkpoints.load import load_bundle
from motivnet.errors import ExportError, OutputError, require
from motivnet.inference import backends
from motivnet.labels import AFFECT
from motivnet.models.config import ModelConfig
from motivnet.models.motivnet import AllOutputs
from motivnet.storage import atomic_folder, write_bytes

# The newest opset that the oldest supported onnxruntime runs.
OPSET = 20

PRECISIONS = {
    torch.float32: onnx_ir.DataType.FLOAT,
    torch.float16: onnx_ir.DataType.FLOAT16,
    torch.bfloat16: onnx_ir.DataType.BFLOAT16,
}
# Operators with matrices. Biases, norms, positions and rotary tables are small, and suffer more from rounding.
MATRIX_OPS = {"Conv", "Gemm", "MatMul", "Split"}

# One file may have 2 GiB, but is serialised in memory at four times its size; external data is written one by one.
MAX_INLINE_BYTES = 1_000_000_000


def export_onnx(
    bundle: Bundle, path: Path | None = None, *, dtype: torch.dtype = torch.float32, external_data: bool = False
) -> Path:
    """Export the weights of a bundle as ONNX; the file is written atomically.

    What was quantised from the bundle's earlier file is removed with it.

    Args:
        bundle: to export.
        path: of the file; None takes that of the bundle. An existing file is replaced with its external data.
        dtype: precision to which matrices are rounded: float32, or float16 or bfloat16 for half the size at the same
            speed. Matrices that are in float16 already take half the size in float32, too.
        external_data: always store the weights in a separate file, not only where they are too large.

    Returns:
        The file.

    Raises:
        CheckpointError: if the weights are missing, damaged, of another model, or too large for the free memory.
        ExportError: at another dtype, or an architecture that torch cannot export.
        OutputError: if the file cannot be written.
    """
    require(dtype in PRECISIONS, f"dtype {dtype}. Allowed: {', '.join(map(str, PRECISIONS))}", ExportError)
    path = path or bundle.onnx
    require(path.parent.is_dir(), f"{path}: cannot be written: No such file or directory", OutputError)
    with atomic_folder(path.parent, merge=True, last=path.name) as temporary:
        file = temporary / path.name
        _write(bundle, file, dtype, external_data=external_data)
        # By path, since models over 2 GB cannot be passed as bytes.
        onnx.checker.check_model(str(file), full_check=True)
        external = data_path(file).exists()
        if external:
            # If interrupted from here on, no graph must be left with the weights of another.
            path.unlink(missing_ok=True)
        if path.resolve() == bundle.onnx.resolve():
            for name in set(ONNX_NAMES.values()) - {path.name}:
                (bundle.path / name).unlink(missing_ok=True)
    if not external:
        data_path(path).unlink(missing_ok=True)
    return path


def data_path(path: Path) -> Path:
    """Return the path of the external data of an ONNX file, which need not exist."""
    return path.with_name(f"{path.name}.data")


def metadata(bundle: Bundle, dtype: torch.dtype) -> dict[str, str]:
    """Return the metadata of an ONNX file, with which it can be used without its bundle."""
    return {
        "name": bundle.config.name,
        "labels": config.to_json(list(bundle.config.labels)),
        "preprocessing": config.to_json(config.to_plain(bundle.config.preprocessing)),
        "fingerprint": bundle.config.preprocessing.fingerprint,
        "licence": bundle.config.licence,
        "stored_in": str(dtype).removeprefix("torch."),
        backends.CALIBRATION_KEY: config.to_json(config.to_plain(bundle.config.calibration)),
        **({backends.AFFECT_NAME: config.to_json(AFFECT)} if bundle.config.model.affect else {}),
    }


def state_calibration(path: Path, calibration: Calibration) -> None:
    """Update the calibration in the metadata of an ONNX file; its weights, inside or beside it, stay.

    Raises:
        OutputError: if the file cannot be written.
    """
    model = onnx.load(path, load_external_data=False)
    props = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, props | {backends.CALIBRATION_KEY: config.to_json(config.to_plain(calibration))})
    write_bytes(path, model.SerializeToString())


def _write(bundle: Bundle, path: Path, dtype: torch.dtype, *, external_data: bool) -> None:
    model = _trace(bundle, PRECISIONS[dtype])
    model.metadata_props.update(metadata(bundle, dtype))
    weights = [value.const_value for value in model.graph.initializers.values()]
    size = sum(tensor.nbytes for tensor in weights if tensor is not None)
    external = external_data or size > MAX_INLINE_BYTES
    onnx_ir.save(model, path, external_data=data_path(path).name if external else None)


def _trace(bundle: Bundle, dtype: onnx_ir.DataType) -> onnx_ir.Model:
    """Export the graph, whose weights are views of the loaded ones, without a copy, or stored in half precision."""
    model, affect = load_bundle(bundle), bundle.config.model.affect
    height, width = bundle.config.model.image_size
    # Two images, since torch would specialise on a batch of one.
    pixels_BCHW = torch.zeros(2, bundle.config.model.input_chans, height, width)
    try:
        with quiet():
            program = torch.onnx.export(
                AllOutputs(model) if affect else model,
                (pixels_BCHW,),
                dynamo=True,
                input_names=[backends.INPUT_NAME],
                output_names=[backends.OUTPUT_NAME, backends.AFFECT_NAME] if affect else [backends.OUTPUT_NAME],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                opset_version=OPSET,
                optimize=False,
            )
            assert program is not None
            # Before the optimiser, which multiplies batch norm into weights that then are in half precision no longer;
            # and after it, as it finds further matrices. onnxruntime folds casts and batch norm on loading.
            _store_matrices(program.model.graph, dtype)
            program.optimize()
            _store_matrices(program.model.graph, dtype)
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ExportError(f"{bundle.path}: torch cannot export {bundle.config.model.backbone}: {reason}") from None
    # The exporter stores a stack trace at every node, with file paths of this machine.
    ClearMetadataAndDocStringPass()(program.model)
    return program.model


def _store_matrices(graph: onnx_ir.Graph, dtype: onnx_ir.DataType) -> None:
    """Store the matrices of a graph in `dtype`, each followed by a cast to float32; converted on writing.

    With float32, those that float16 holds without loss are stored in that.
    """
    lossless = dtype == onnx_ir.DataType.FLOAT
    dtype = onnx_ir.DataType.FLOAT16 if lossless else dtype
    first = graph[0]
    for name, value in list(graph.initializers.items()):
        if value.dtype != onnx_ir.DataType.FLOAT or not any(user.op_type in MATRIX_OPS for user in value.consumers()):
            continue
        if value.const_value is None or value.shape is None or len(value.shape) < 2:
            continue
        if lossless and not _is_half(value.const_value.numpy()):
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


def _is_half(weight: np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        return np.array_equal(weight.astype(np.float16), weight)


def _converted(tensor: onnx_ir.TensorProtocol, dtype: onnx_ir.DataType) -> onnx_ir.LazyTensor:
    def convert() -> onnx_ir.Tensor:
        return onnx_ir.Tensor(tensor.numpy().astype(dtype.numpy()), dtype=dtype)

    return onnx_ir.LazyTensor(convert, dtype=dtype, shape=onnx_ir.Shape(tensor.shape.numpy()))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress and the warnings of torch's exporter."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


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
    return compare(
        bundle,
        lambda: backends.OnnxBackend(bundle, path=onnx),
        onnx or bundle.onnx,
        pixels_BCHW,
        tolerance=TOLERANCES[dtype] if tolerance is None else tolerance,
    )


def compare(
    bundle: Bundle,
    load: Callable[[], backends.Backend],
    path: Path,
    pixels_BCHW: np.ndarray | None = None,
    *,
    tolerance: float,
) -> float:
    """Compare an exported file with torch; `load` loads it, and the rest is as for `verify_onnx`."""
    if pixels_BCHW is None:
        pixels_BCHW = random_pixels(bundle.config.model)
    # Torch's copy of the weights is released before the file's is loaded.
    with torch.inference_mode():
        logits, affect = load_bundle(bundle).outputs(torch.from_numpy(pixels_BCHW))
    outputs = backends.Outputs(logits.float().numpy(), None if affect is None else affect.numpy())
    expected = _predict(bundle.config, outputs, len(pixels_BCHW))
    backend = load()
    largest = 0.0
    for batch_size in {1, min(3, len(pixels_BCHW)), len(pixels_BCHW)}:
        found = _predict(bundle.config, backend.outputs(pixels_BCHW[:batch_size]), batch_size)
        # Not Python's max, which would ignore NaN.
        largest = float(np.maximum(largest, np.abs(found - expected[:batch_size]).max()))
    if not largest <= tolerance:
        compared = f"probabilities, {' or '.join(AFFECT)}" if bundle.config.model.affect else "probabilities"
        raise ExportError(f"{path}: {compared} differ from torch by {largest:.2e}, allowed is {tolerance:.0e}")
    return largest


def _predict(config: BundleConfig, outputs: backends.Outputs, num_images: int) -> np.ndarray:
    """Return probabilities, and valence and arousal if there are any, side by side."""
    probs_BC, affect_B2 = backends.answers(config, outputs, num_images)
    return probs_BC if affect_B2 is None else np.concatenate([probs_BC, affect_B2], 1)


def random_pixels(config: ModelConfig) -> np.ndarray:
    """Draw random normalised images, float32 (B, C, H, W)."""
    height, width = config.image_size
    num_images = min(max(NUM_PIXELS // (height * width), MIN_IMAGES), MAX_IMAGES)
    shape = (num_images, config.input_chans, height, width)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)

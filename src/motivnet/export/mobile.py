"""Export for phones and small boards: TFLite, and ExecuTorch with XNNPACK; one face in, uncalibrated logits out.

These formats have no place for labels, preprocessing and calibration: the settings of the bundle stand in FILE.json.

Shape suffixes: B images, C channels, H height, W width.
"""

# The libraries of the formats are not part of the environment that is tested.
# pyright: reportMissingImports=false

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from motivnet.checkpoints.bundle import Bundle
from motivnet.checkpoints.load import load_bundle
from motivnet.config import to_plain
from motivnet.errors import OutputError, needs_extra
from motivnet.export.onnx import TOLERANCES, compare, quiet
from motivnet.inference.backends import Outputs
from motivnet.models.motivnet import AllOutputs
from motivnet.storage import atomic_path, write_bytes, write_json

# Format, which is also the name of the extra -> suffix of its files.
SUFFIXES = {"tflite": ".tflite", "executorch": ".pte"}
Run = Callable[[np.ndarray], Sequence[np.ndarray]]


class MobileBackend:
    """An exported file in the runtime of its format, on the CPU, one image after the other."""

    max_batch: int | None = 1

    def __init__(self, form: str, path: Path) -> None:
        """Load a file of a format of `SUFFIXES`.

        Raises:
            MissingExtraError: if its runtime is not installed.
        """
        with needs_extra(form, form):
            self._run: Run = _FORMATS[form][1](path)

    def outputs(self, pixels_BCHW: np.ndarray) -> Outputs:
        """Run the model on normalised pixels, float32 (B, C, H, W)."""
        answers = [self._run(pixels_BCHW[place : place + 1]) for place in range(len(pixels_BCHW))]
        logits, *affect = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        return Outputs(logits, affect[0] if affect else None)


def export_mobile(bundle: Bundle, form: str, path: Path) -> float:
    """Export the weights of a bundle in float32, and compare the file with torch on random faces.

    Args:
        bundle: with safetensors.
        form: a format of `SUFFIXES`.
        path: of the file, with that suffix. It is replaced.

    Returns:
        The largest absolute difference of any probability, valence or arousal.

    Raises:
        CheckpointError: if the weights are missing, damaged or of another model.
        ExportError: if the file differs from torch by more than float32 explains.
        MissingExtraError: if the library of the format is not installed.
        OutputError: if the suffix is another one, or the file cannot be written.
    """
    if path.suffix != SUFFIXES[form]:
        raise OutputError(f"{path}: suffix {path.suffix!r}. Allowed for {form}: {SUFFIXES[form]}")
    model, config = load_bundle(bundle), bundle.config
    pixels_BCHW = torch.zeros(1, config.model.input_chans, *config.model.image_size)
    with needs_extra(form, form), quiet():
        _FORMATS[form][0](_PlainOutputs(model) if config.model.affect else model, pixels_BCHW, path)
    write_json(path.with_name(f"{path.name}.json"), to_plain(config), ensure_ascii=False)
    return compare(bundle, lambda: MobileBackend(form, path), path, tolerance=TOLERANCES[torch.float32])


class _PlainOutputs(AllOutputs):
    """Return a plain tuple, since ExecuTorch cannot store a named one."""

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return tuple(output for output in super().forward(pixels_BCHW) if output is not None)


def _write_tflite(net: nn.Module, pixels_BCHW: Tensor, path: Path) -> None:
    import litert_torch

    converted = litert_torch.convert(net, (pixels_BCHW,))
    with atomic_path(path) as temporary:
        converted.export(str(temporary))


def _write_executorch(net: nn.Module, pixels_BCHW: Tensor, path: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(net, (pixels_BCHW,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    write_bytes(path, lowered.to_executorch().buffer)


def _load_tflite(path: Path) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(path), num_threads=1).get_signature_runner()
    (name,), outputs = run.get_input_details(), sorted(run.get_output_details())

    def answers(pixels_BCHW: np.ndarray) -> list[np.ndarray]:
        found = run(**{name: pixels_BCHW})
        return [found[output] for output in outputs]

    return answers


def _load_executorch(path: Path) -> Run:
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    return lambda pixels_BCHW: [output.numpy().copy() for output in method.execute([torch.from_numpy(pixels_BCHW)])]


_FORMATS = {"tflite": (_write_tflite, _load_tflite), "executorch": (_write_executorch, _load_executorch)}

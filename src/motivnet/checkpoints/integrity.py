"""Reads every number of a file of weights, one tensor at a time, and counts what is no number."""

import dataclasses
from pathlib import Path

import torch

from motivnet.checkpoints.files import open_weights, release


@dataclasses.dataclass(frozen=True, slots=True)
class Soundness:
    """What reading a file through has shown.

    Args:
        container: how the tensors are packed: safetensors, pickle, torchscript.
        num_tensors: in the file.
        num_values: in all of them.
        num_not_finite: values that are NaN or infinite.
    """

    container: str
    num_tensors: int
    num_values: int
    num_not_finite: int


def read_through(path: Path) -> Soundness:
    """Read every tensor of a file.

    Raises:
        CheckpointError: if the file is missing, no file of weights, or damaged.
    """
    file = open_weights(path)
    num_values = num_not_finite = 0
    for tensor in file.tensors.values():
        num_values += tensor.numel()
        if tensor.is_floating_point():
            # In float32: not every dtype of one byte knows isfinite.
            num_not_finite += int((~torch.isfinite(tensor.float())).sum())
        release(tensor)
    return Soundness(file.container, len(file.tensors), num_values, num_not_finite)

"""Weights from disk into modules. Loading is strict."""

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from motivnet.checkpoints.bundle import Bundle, open_bundle
from motivnet.errors import CheckpointError
from motivnet.models.motivnet import MotivNet, build_model

# What torch and its unpickler raise at a damaged file, or at one that would execute something.
_DAMAGED = (
    *(AssertionError, AttributeError, EOFError, ImportError, LookupError, OSError, OverflowError, RuntimeError),
    *(TypeError, ValueError, pickle.UnpicklingError, struct.error),
)


def load_model(model: str | Path) -> MotivNet:
    """Load a bundle's weights into a module in eval mode.

    Args:
        model: name of an embedded model, or the folder of a bundle.

    Returns:
        `model(pixels_BCHW)` gives logits (B, C), `model.backbone(pixels_BCHW)` tokens (B, N, D).

    Raises:
        CheckpointError: if there is no such model, or its weights are missing, damaged or of another one.
    """
    bundle = open_bundle(model)
    net = build_model(bundle.config.model)
    load_strict(net, read_weights(bundle.weights), str(bundle.weights))
    return net.eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; weights kept in half precision are widened to float32.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors: {error}") from None
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def write_weights(bundle: Bundle, model: nn.Module) -> None:
    """Write a model's weights into its bundle, in the precision they have."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, bundle.weights, metadata={"format": "pt"})
    bundle.weights.chmod(0o644)  # save_file lets nobody else read it


def read_imagenet_weights(path: Path) -> dict[str, Tensor]:
    """Read a `.pth` state dict of torchvision; nothing in it is executed.

    Raises:
        CheckpointError: if the file is missing, damaged, or more than tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except _DAMAGED as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{path}: not a plain file of tensors: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected a dict of tensors")
    return state


def load_strict(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load tensors into a model of exactly these names and shapes.

    Raises:
        CheckpointError: naming what is missing, unexpected or of another shape.
    """
    own = model.state_dict()
    problems = [f"missing {name}" for name in own.keys() - state.keys()]
    problems += [f"unexpected {name}" for name in state.keys() - own.keys()]
    problems += [
        f"{name}: found {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:5])
        raise CheckpointError(f"{where}: not the weights of this model ({len(problems)} differences): {shown}")
    model.load_state_dict(dict(state), strict=True)

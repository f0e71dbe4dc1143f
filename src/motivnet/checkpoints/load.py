"""Weights from disk into modules: strict, memory-mapped, one tensor at a time."""

import contextlib
import dataclasses
import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from motivnet.checkpoints.bundle import Bundle, embedded_models, is_bundle, open_bundle, require_head
from motivnet.checkpoints.files import open_weights, release
from motivnet.checkpoints.formats import Contents, identify
from motivnet.checkpoints.hub import is_hub_name, locate
from motivnet.errors import CheckpointError, ConfigError, unknown_name
from motivnet.models.backbone import Backbone, resize_positions
from motivnet.models.config import ModelConfig, VitConfig
from motivnet.models.motivnet import MotivNet, build_backbone, build_head, build_model

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_log = logging.getLogger(__name__)

POSITIONS = "net.pos_embed"
CLASS_TOKEN = "net.cls_token"


def load_model(
    model: str | Path,
    *,
    image_size: tuple[int, int] | None = None,
    num_heads: int | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> MotivNet:
    """Load a whole model into a module in eval mode.

    Args:
        model: name of an embedded model, folder of a bundle, file in a released format, or a name that
            `motivnet weights list` knows.
        image_size: (height, width) of the input, in pixels; None takes the model's own. Positions are resized.
        num_heads: attention heads of the encoder, where neither its width nor its metadata tells.
        device: where to put the weights.
        dtype: what to turn floating-point weights into.

    Returns:
        `model(pixels_BCHW)` gives logits (B, C), `model.backbone(pixels_BCHW)` tokens (B, N, D).

    Raises:
        CheckpointError: if there is no such model, or its weights are missing, damaged, of another one, or too large
            for the memory that is free.
    """
    if is_bundle(model):
        bundle = open_bundle(model)
        return load_bundle(bundle, image_size=image_size, device=device, dtype=dtype)
    path = find_weights(model)
    if path.is_dir():
        return load_bundle(open_bundle(path), image_size=image_size, device=device, dtype=dtype)
    contents = require_model(identify(open_weights(path), num_heads=num_heads, image_size=image_size))
    return load_contents(contents, image_size=image_size, device=device, dtype=dtype)


def find_weights(name: str | Path) -> Path:
    """Find a file, or a bundle's folder, by its path or by a name that `motivnet weights list` knows.

    Raises:
        CheckpointError: if there is none, or it cannot be fetched.
    """
    if Path(name).exists():
        return Path(name)
    if is_hub_name(str(name)):
        return locate(str(name))
    raise CheckpointError(
        f"{unknown_name('model', str(name), embedded_models())}, the folder of a bundle, a file of weights, or a name "
        f"that `motivnet weights list` knows"
    )


def require_model(contents: Contents) -> Contents:
    """Pass a whole model through.

    Raises:
        CheckpointError: if it is only a part.
    """
    if contents.part != "model":
        raise CheckpointError(
            f"{contents.path}: a {contents.part} in format {contents.format}, expected a whole model: without a "
            f"trained head there is nothing to predict with. Allowed here: load_{contents.part}"
        )
    return contents


def load_bundle(
    bundle: Bundle,
    *,
    image_size: tuple[int, int] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> MotivNet:
    """Load a bundle's weights; arguments and errors as for `load_model`."""
    own = require_head(bundle).config.model
    config = resized(own, image_size, bundle.path)
    tensors = fit_encoder(open_weights(bundle.weights).tensors, own, config, prefix="backbone.")
    net = _build(lambda: build_model(config), bundle.path)
    return fill(net, tensors, bundle.weights, device=device, dtype=dtype).eval()


def load_contents(
    contents: Contents,
    *,
    image_size: tuple[int, int] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> MotivNet:
    """Load a released model that has been identified; arguments and errors as for `load_model`."""
    own, config = contents.model_config(), contents.model_config(image_size)
    tensors = fit_encoder(contents.tensors, own, config, prefix="backbone.")
    net = _build(lambda: build_model(config), contents.path)
    return fill(net, tensors, contents.path, device=device, dtype=dtype).eval()


def load_backbone(
    file: str | Path,
    image_size: tuple[int, int] = (1024, 768),
    *,
    num_heads: int | None = None,
    class_token: bool | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Backbone:
    """Load the encoder of a released file into a module in eval mode.

    Args:
        file: in a released format, or a name that `motivnet weights list` knows; of a whole model the encoder is taken.
        image_size: (height, width) of the input, in pixels. Positions are resized.
        num_heads: attention heads, where neither the width nor the metadata tells.
        class_token: of a Sapiens (v1) pre-training file: True keeps the class token and the patches without padding,
            as in pre-training; False drops it and pads the patches, as the task checkpoints do. None keeps it at the
            size of pre-training, where the encoder is then exactly the pre-trained one.
        device: where to put the weights.
        dtype: what to turn floating-point weights into.

    Returns:
        `backbone(pixels_BCHW)` gives tokens (B, N, D), row by row, without class or register tokens.

    Raises:
        CheckpointError: if there is no such file, or it holds no encoder.
    """
    path = find_weights(file)
    contents = identify(open_weights(path), num_heads=num_heads, image_size=image_size)
    if contents.part == "head":
        raise CheckpointError(f"{path}: a head in format {contents.format}, expected an encoder. Allowed: load_head")
    own = contents.model_config()
    assert own.vit
    keep = own.vit.class_token and (tuple(image_size) == own.image_size if class_token is None else class_token)
    if class_token and not keep:
        raise CheckpointError(f"{path}: format {contents.format} has no class token to keep")
    config = contents.model_config(image_size)
    if own.backbone == "sapiens":
        vit = dataclasses.replace(own.vit, class_token=keep, patch_padding=0 if keep else 2)
        config = dataclasses.replace(config, vit=vit)
    left_out = contents.dropped + ((CLASS_TOKEN,) if own.vit.class_token and not keep else ())
    if left_out:
        _log.info("%s: left out on purpose: %s", path, ", ".join(left_out))
    tensors = contents.tensors
    if contents.part == "model":
        tensors = {
            name.removeprefix("backbone."): tensor for name, tensor in tensors.items() if name.startswith("backbone.")
        }
    tensors = fit_encoder(tensors, own, config)
    return fill(_build(lambda: build_backbone(config), path), tensors, path, device=device, dtype=dtype).eval()


def load_head(file: str | Path) -> nn.Module:
    """Load ML-Decoder as its authors publish it, into a module in eval mode: tokens (B, N, D) to logits (B, C).

    Raises:
        CheckpointError: if the file is damaged or of another format.
    """
    contents = identify(open_weights(file))
    if contents.part != "head" or contents.head is None or contents.num_classes is None:
        raise CheckpointError(f"{file}: format {contents.format}, expected ml-decoder")
    head, num_classes = contents.head, contents.num_classes
    in_dim = contents.tensors["embed.weight"].shape[1]
    net = _build(lambda: build_head(head, in_dim, num_classes), contents.path)
    return fill(net, contents.tensors, contents.path, device="cpu", dtype=torch.float32).eval()


def resized(config: ModelConfig, image_size: tuple[int, int] | None, where: Path) -> ModelConfig:
    """Give the dimensions of a model for another input size.

    Raises:
        CheckpointError: if it cannot have that size.
    """
    if image_size is None:
        return config
    try:
        return dataclasses.replace(config, image_size=tuple(image_size))
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from None


def fit_encoder(
    tensors: Mapping[str, Tensor], own: ModelConfig, wanted: ModelConfig, *, prefix: str = ""
) -> dict[str, Tensor]:
    """Fit an encoder's positions to another input size, and drop a class token that is not wanted.

    Args:
        tensors: under our names.
        own: dimensions that they belong to.
        wanted: dimensions of the model to fill.
        prefix: before the encoder's names.
    """
    fitted = dict(tensors)
    if own.backbone != "sapiens" or own.vit is None or wanted.vit is None:
        return fitted
    positions = prefix + POSITIONS
    if own.vit.class_token and not wanted.vit.class_token:
        fitted.pop(prefix + CLASS_TOKEN)
        fitted[positions] = fitted[positions][:, 1:]
    if own.image_size == wanted.image_size or positions not in fitted:
        return fitted
    old_grid, new_grid = _grid(own.image_size, own.vit), _grid(wanted.image_size, wanted.vit)
    num_prefix_tokens = int(wanted.vit.class_token)
    # Positions of any other shape stay as they are, for `fill` to refuse.
    if fitted[positions].shape == (1, num_prefix_tokens + math.prod(old_grid), own.vit.embed_dim):
        fitted[positions] = resize_positions(fitted[positions], old_grid, new_grid, num_prefix_tokens=num_prefix_tokens)
    return fitted


def _grid(image_size: tuple[int, int], vit: VitConfig) -> tuple[int, int]:
    return image_size[0] // vit.patch_size, image_size[1] // vit.patch_size


def fill(
    net: ModuleT, tensors: Mapping[str, Tensor], where: Path, *, device: str | torch.device, dtype: torch.dtype
) -> ModuleT:
    """Give a module of `built_without_memory` its weights, one tensor after the other.

    Args:
        net: to be filled, in place.
        tensors: of exactly its names and shapes, memory-mapped.
        where: they come from, for messages.
        device: where to put them.
        dtype: what to turn those of floating point into.

    Raises:
        CheckpointError: if names or shapes differ, or there is not memory enough.
    """
    check_names(net, tensors, where)
    device = torch.device(device)
    check_memory(net, where, device, dtype)
    filled: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        target = dtype if tensor.is_floating_point() else tensor.dtype
        filled[name] = tensor.to(device, target, copy=True).contiguous()
        # Read once and never again: without this, the mapped file would stay in memory beside the copy.
        release(tensor)
    net.load_state_dict(filled, strict=True, assign=True)
    # What is computed, not loaded, such as rotary frequencies; it keeps its precision.
    return net.to(device)


def check_memory(net: nn.Module, where: Path, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a model that cannot fit, before anything is allocated.

    Raises:
        CheckpointError: saying what it takes and what there is.
    """
    needed = sum(parameter.numel() for parameter in net.parameters()) * dtype.itemsize
    free = free_bytes(device)
    if free is not None and needed > free:
        raise CheckpointError(
            f"{where}: takes {needed / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')}, and {free / 1e9:.1f} GB are "
            f"free on {device}. Allowed: bfloat16, a smaller model, another device, or more memory"
        )


def free_bytes(device: torch.device) -> int | None:
    """Give the memory that can still be used on a device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if device.type != "cpu" or not meminfo.exists():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


_building = threading.Lock()


@contextlib.contextmanager
def built_without_memory() -> Iterator[None]:
    """Inside, modules made by this thread get parameters without storage, which only `fill` makes real.

    Buffers are real: some are computed when a module is built, and come with no file.
    """
    thread = threading.get_ident()

    def to_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or threading.get_ident() != thread:
            return parameter
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    with _building:
        handle = register_module_parameter_registration_hook(to_meta)  # pyright: ignore[reportArgumentType]
        try:
            yield
        finally:
            handle.remove()


def _build(build: Callable[[], ModuleT], where: Path) -> ModuleT:
    try:
        with built_without_memory():
            return build()
    except (ConfigError, ValueError, RuntimeError) as error:  # torch's, if one layer alone is beyond all memory
        raise CheckpointError(f"{where}: {error}") from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file's tensors into memory; those kept in half precision are widened to float32.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    tensors = open_weights(path).tensors
    return {
        name: tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        for name, tensor in tensors.items()
    }


def write_weights(bundle: Bundle, model: nn.Module) -> None:
    """Write a model's weights into its bundle, in the precision they have."""
    write_tensors(bundle.weights, model.state_dict())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    path.chmod(0o644)  # save_file lets nobody else read it


def load_strict(model: nn.Module, state: Mapping[str, Tensor], where: str | Path, *, assign: bool = False) -> None:
    """Copy tensors into a model of exactly these names and shapes; with `assign`, make them the model's own.

    Raises:
        CheckpointError: naming what is missing, unexpected or of another shape.
    """
    check_names(model, state, where)
    model.load_state_dict(dict(state), strict=True, assign=assign)


def check_names(model: nn.Module, state: Mapping[str, Tensor], where: str | Path) -> None:
    """Compare names and shapes of tensors with those of a model.

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

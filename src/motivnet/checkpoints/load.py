"""Loads weights into modules: strict, memory-mapped, one tensor at a time; converts released files to bundles."""

import contextlib
import dataclasses
import functools
import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from motivnet.checkpoints import formats
from motivnet.checkpoints.bundle import Bundle, check_place, find_weights, open_bundle, require_head, write_config
from motivnet.checkpoints.files import open_weights, release, unwrapped
from motivnet.checkpoints.formats import Contents, Size, identify, is_of_bundle
from motivnet.errors import CheckpointError, ConfigError, require, reraised
from motivnet.models.backbone import UNFIT, Backbone, resize_positions
from motivnet.models.config import ModelConfig, VitConfig
from motivnet.models.motivnet import MotivNet, build_backbone, build_head, build_model
from motivnet.storage import atomic_folder

ModuleT = TypeVar("ModuleT", bound=nn.Module)
Device = str | torch.device
_log = logging.getLogger(__name__)

POSITIONS = "net.pos_embed"
CLASS_TOKEN = "net.cls_token"


def load_model(
    model: str | Path,
    *,
    image_size: tuple[int, int] | None = None,
    num_heads: int | None = None,
    device: Device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> MotivNet:
    """Load a whole model into a module in eval mode.

    Args:
        model: name of an embedded model, folder of a bundle, file in a released format, or a name that
            `motivnet weights list` knows.
        image_size: (height, width) of the input, in pixels; None takes the model's own. Positions are resized.
        num_heads: attention heads of the encoder, where they follow neither from its width nor from its metadata.
        device: of the weights.
        dtype: of floating-point weights.

    Returns:
        `model(pixels_BCHW)` returns logits (B, C), `model.forward_features(pixels_BCHW)` tokens (B, N, D).

    Raises:
        CheckpointError: if there is no such model, or its weights are missing, damaged, of another model, or too large.
    """
    path = find_weights(model)
    if path.is_dir():
        found = open_bundle(path)
    else:
        found = identify(open_weights(path), num_heads=num_heads, image_size=image_size)
    return load_bundle(found, image_size=image_size, device=device, dtype=dtype)


def require_model(contents: Contents) -> Contents:
    """Return the contents if they are a whole model.

    Raises:
        CheckpointError: if they are only a part.
    """
    if contents.part != "model":
        raise CheckpointError(
            f"{contents.path}: a {contents.part} in format {contents.format}, expected a whole model: without a "
            f"trained head there is nothing to predict with. Allowed here: load_{contents.part}"
        )
    return contents


def load_bundle(
    bundle: Bundle | Contents, *, image_size: Size = None, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> MotivNet:
    """Load the weights of a bundle, or of an identified released model; arguments and errors as for `load_model`."""
    if isinstance(bundle, Bundle):
        own, where = require_head(bundle).config.model, bundle.weights
    else:
        own, where = require_model(bundle).model_config(), bundle.path
    config = resized(own, image_size, bundle.path)
    tensors = bundle.tensors if isinstance(bundle, Contents) else unwrapped(open_weights(where), is_of_bundle).tensors
    tensors = fit_encoder(tensors, own, config, prefix="backbone.")
    return fill(lambda: build_model(config), tensors, where, device=device, dtype=dtype)


def load_backbone(
    file: str | Path,
    image_size: tuple[int, int] = (1024, 768),
    *,
    num_heads: int | None = None,
    class_token: bool | None = None,
    rope_bfloat16: bool = False,
    device: Device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Backbone:
    """Load the encoder of a released file into a module in eval mode.

    Args:
        file: in a released format, or a name that `motivnet weights list` knows; of a whole model the encoder is taken.
        image_size: (height, width) of the input, in pixels. Positions are resized.
        num_heads: attention heads, where they follow neither from the width nor from the metadata.
        class_token: of a Sapiens (v1) pre-training file: True keeps the class token and the patches without padding,
            as in pre-training; False drops it and pads the patches, as in the task checkpoints. None keeps it at the
            size of pre-training, where the encoder is then exactly the pre-trained one.
        rope_bfloat16: of Sapiens2, see `VitConfig`.
        device: of the weights.
        dtype: of floating-point weights.

    Returns:
        `backbone(pixels_BCHW)` returns tokens (B, N, D), row by row, without class or register tokens.

    Raises:
        CheckpointError: if there is no such file, or it has no encoder.
    """
    path = find_weights(file)
    contents = identify(open_weights(path), num_heads=num_heads, image_size=image_size)
    if contents.part == "head":
        raise CheckpointError(f"{path}: a head in format {contents.format}, expected an encoder. Allowed: load_head")
    own = contents.model_config()
    assert own.vit
    keep = own.vit.class_token and (tuple(image_size) == own.image_size if class_token is None else class_token)
    require(not class_token or keep, f"{path}: format {contents.format} has no class token to keep", CheckpointError)
    config = contents.model_config(image_size)
    if own.backbone == "sapiens":
        vit = dataclasses.replace(own.vit, class_token=keep, patch_padding=0 if keep else 2)
        config = dataclasses.replace(config, vit=vit)
    elif rope_bfloat16:
        config = dataclasses.replace(config, vit=dataclasses.replace(own.vit, rope_bfloat16=True))
    dropped = contents.dropped + ((CLASS_TOKEN,) if own.vit.class_token and not keep else ())
    if dropped:
        _log.info("%s: dropped on purpose: %s", path, ", ".join(dropped))
    tensors = formats.below(contents.tensors, "backbone.") if contents.part == "model" else contents.tensors
    tensors = fit_encoder(tensors, own, config)
    return fill(lambda: build_backbone(config), tensors, path, device=device, dtype=dtype)


def load_head(file: str | Path) -> nn.Module:
    """Load an ML-Decoder file of its authors into a module in eval mode, from tokens (B, N, D) to logits (B, C).

    Raises:
        CheckpointError: if the file is damaged or of another format.
    """
    contents = identify(open_weights(file))
    if contents.part != "head" or contents.head is None or contents.num_classes is None:
        raise CheckpointError(f"{file}: format {contents.format}, expected ml-decoder")
    in_dim = contents.tensors["embed.weight"].shape[1]
    build = functools.partial(build_head, contents.head, in_dim, contents.num_classes)
    return fill(build, contents.tensors, contents.path, device="cpu", dtype=torch.float32)


def resized(config: ModelConfig, image_size: tuple[int, int] | None, where: Path) -> ModelConfig:
    """Return the dimensions of a model for another input size.

    Raises:
        CheckpointError: if it cannot have that size.
    """
    if image_size is None:
        return config
    with reraised(CheckpointError, where, ConfigError):
        return dataclasses.replace(config, image_size=tuple(image_size))


def fit_encoder(
    tensors: Mapping[str, Tensor], own: ModelConfig, wanted: ModelConfig, *, prefix: str = ""
) -> dict[str, Tensor]:
    """Resize the positions of an encoder to another input size, and drop an unwanted class token.

    Args:
        tensors: under our names.
        own: their dimensions.
        wanted: dimensions of the model to fill.
        prefix: of the names of the encoder.
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
    # `fill` refuses positions of any other shape.
    if fitted[positions].shape == (1, num_prefix_tokens + math.prod(old_grid), own.vit.embed_dim):
        fitted[positions] = resize_positions(fitted[positions], old_grid, new_grid, num_prefix_tokens=num_prefix_tokens)
    return fitted


def _grid(image_size: tuple[int, int], vit: VitConfig) -> tuple[int, int]:
    return image_size[0] // vit.patch_size, image_size[1] // vit.patch_size


def fill(
    build: Callable[[], ModuleT], tensors: dict[str, Tensor], where: Path, *, device: Device, dtype: torch.dtype
) -> ModuleT:
    """Build a module without memory, and fill it with weights, one tensor after the other; returned in eval mode.

    Args:
        build: returns the module.
        tensors: with exactly its names and shapes, memory-mapped.
        where: their file, for messages.
        device: of the weights.
        dtype: of floating-point weights.

    Raises:
        CheckpointError: if it cannot be built, names or shapes differ, or there is not enough memory.
    """
    # MemoryError: torch's, if a single layer exceeds the address space.
    with reraised(CheckpointError, where, ConfigError, MemoryError, *UNFIT), built_without_memory():
        net = build()
    check_names(net, tensors, where)
    device = torch.device(device)
    needed = sum(parameter.numel() for parameter in net.parameters()) * dtype.itemsize
    free = free_bytes(device)
    if free is not None and needed > free:
        raise CheckpointError(
            f"{where}: takes {needed / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')}, and {free / 1e9:.1f} GB are "
            f"free on {device}. Allowed: bfloat16, a smaller model, another device, or more memory"
        )
    filled: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        target = dtype if tensor.is_floating_point() else tensor.dtype
        filled[name] = tensor.to(device, target, copy=True).contiguous()
        check_finite(filled[name], name, where)
        # Without this, the mapped file would stay in memory beside the copy.
        release(tensor)
    net.load_state_dict(filled, strict=True, assign=True)
    # Computed buffers, such as rotary frequencies, keep their precision.
    return net.to(device).eval()


def check_finite(tensor: Tensor, name: str, where: str | Path) -> None:
    """Raise CheckpointError if a weight is NaN or infinite: activations may clip it to an ordinary number."""
    values = tensor if tensor.dtype.itemsize > 1 else tensor.float()
    if tensor.is_floating_point() and tensor.numel() and not all(map(math.isfinite, values.aminmax())):
        raise CheckpointError(f"{where}: damaged: {name} has values that are NaN or infinite in {tensor.dtype}")


def free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a device; None where the system does not report it."""
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
    """Give modules that this thread builds in the block parameters without storage, until `fill` loads them.

    Buffers have storage: some are computed when a module is built, and are in no file.
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


def write_weights(bundle: Bundle, model: nn.Module) -> None:
    """Write the weights of a model into its bundle, whose folder is written atomically, in their own precision."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, bundle.weights, metadata={"format": "pt"})
    bundle.weights.chmod(0o644)  # save_file makes it private


def load_strict(model: nn.Module, state: Mapping[str, Tensor], where: str | Path, *, assign: bool = False) -> None:
    """Copy tensors into a model with exactly these names and shapes, or with `assign` use them as its parameters.

    Raises:
        CheckpointError: naming what is missing, unexpected or of another shape.
    """
    check_names(model, state, where)
    for name, tensor in state.items():
        check_finite(tensor, name, where)
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


def convert(
    file: str | Path,
    out: Path,
    *,
    dtype: torch.dtype = torch.float32,
    image_size: tuple[int, int] | None = None,
    geometry: str = formats.DEFAULT_GEOMETRY,
    num_heads: int | None = None,
    name: str | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Convert a released model to a bundle, which is written atomically.

    Args:
        file: in a released format, or a name that `motivnet weights list` knows.
        out: folder to write.
        dtype: of the weights.
        image_size: (height, width) of the input, in pixels; None takes that of the file.
        geometry: as for `released_config`.
        num_heads: attention heads of the encoder, where they follow neither from its width nor from its metadata.
        name: of the model; None takes that of the folder.
        licence: of the weights; None takes that of the released files.
        overwrite: replace an existing bundle; nothing else is ever replaced.

    Raises:
        CheckpointError: if the file is damaged, or no whole model.
        OutputError: if `out` exists, or cannot be written.
    """
    out = out.resolve()
    check_place(out, overwrite=overwrite)
    contents = require_model(identify(open_weights(find_weights(file)), num_heads=num_heads, image_size=image_size))
    config = formats.released_config(contents, geometry, image_size, name=name or out.name, licence=licence)
    model = load_bundle(contents, image_size=config.model.image_size, dtype=dtype)
    with atomic_folder(out, also=(SafetensorError,)) as temporary:
        write_weights(write_config(temporary, config), model)
    return Bundle(out, config)

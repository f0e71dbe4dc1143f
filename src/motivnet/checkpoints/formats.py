"""Recognises released weight files: format and dimensions, inferred from names and shapes of the tensors.

Nothing is inferred from the name of the file. Only the number of attention heads does not follow from shapes.

Shape suffixes: N tokens, D token width.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from motivnet.checkpoints.bundle import BundleConfig
from motivnet.checkpoints.files import WeightsFile, open_weights, unwrapped
from motivnet.checkpoints.keymaps import ML_DECODER_UPSTREAM, MOTIVNET_RELEASED, SAPIENS, SAPIENS2
from motivnet.errors import CheckpointError, ConfigError, require, reraised, unknown_name
from motivnet.labels import EMOTIONS
from motivnet.models.config import HeadConfig, ModelConfig, VitConfig
from motivnet.preprocess import PREPROCESSINGS

Part = Literal["model", "backbone", "head"]

# Attention heads of the released encoders by width (Sapiens: arXiv 2408.12569, table of architectures).
SAPIENS_HEADS: Mapping[int, int] = {1024: 16, 1280: 16, 1536: 24, 1920: 32}
# ML-Decoder's default, which all released files use (arXiv 2111.12933).
ML_DECODER_HEADS = 8
# The input size of all Sapiens2 files: with rotary positions it does not follow from the weights.
SAPIENS2_SIZE = (1024, 768)

DEFAULT_GEOMETRY = "motivnet-pad"
RELEASED_LICENCE = "unknown: ask the authors; the encoder comes from Sapiens, CC BY-NC 4.0: no commercial use"

Size = tuple[int, int] | None


@dataclasses.dataclass(frozen=True, slots=True)
class Contents:
    """The identified contents of a weight file.

    Args:
        path: of the file.
        format: one of `FORMATS`.
        part: a whole model, or one of its parts.
        tensors: under our names, memory-mapped; of a `backbone` or `head` without that prefix.
        dropped: names in the file of tensors that were dropped on purpose.
        vit: dimensions of the encoder, with 0 heads if their number is unknown; None for a `head`.
        backbone: kind of encoder, `sapiens` or `sapiens2`.
        image_size: (height, width) in pixels that its positions are for; None for a `head`.
        in_chans: channels of the input.
        head: dimensions of the head; None for a `backbone`.
        num_classes: number of logits; None for a `backbone`.
        taken_off: as of the WeightsFile.
    """

    path: Path
    format: str
    part: Part
    tensors: dict[str, Tensor]
    dropped: tuple[str, ...]
    vit: VitConfig | None = None
    backbone: str = "sapiens"
    image_size: Size = None
    in_chans: int = 3
    head: HeadConfig | None = None
    num_classes: int | None = None
    taken_off: tuple[str, ...] = ()

    def model_config(self, image_size: Size = None) -> ModelConfig:
        """Return the dimensions of the model; for a `backbone` with a default head.

        Args:
            image_size: (height, width) in pixels; None takes that of the file.

        Raises:
            CheckpointError: if the number of attention heads is unknown, or the dimensions do not fit together.
        """
        assert self.vit
        assert self.image_size
        if not self.vit.num_heads:
            released = ", ".join(f"{width}: {heads}" for width, heads in SAPIENS_HEADS.items())
            raise CheckpointError(
                f"{self.path}: the number of attention heads of an encoder of width {self.vit.embed_dim} does not "
                f"follow from its tensors. Allowed: num_heads=, metadata 'num_heads' in safetensors, or a released "
                f"width ({released})"
            )
        height, width = image_size or self.image_size
        with reraised(CheckpointError, self.path, ConfigError):
            return ModelConfig(
                backbone=self.backbone,
                image_size=(height, width),
                in_chans=self.in_chans,
                num_classes=self.num_classes or len(EMOTIONS),
                vit=self.vit,
                head=self.head or HeadConfig(),
            )


def inspect_weights(path: str | Path, *, num_heads: int | None = None) -> dict[str, Any]:
    """Return what `motivnet weights inspect` shows of a weight file, as plain data.

    Returns:
        `format`, as in `Contents`; `container`, as in `WeightsFile`; the dimensions `embed_dim`, `depth`, `num_heads`
        and `image_size` (height, width) of an encoder and `num_classes` of a head, each None if there is none or it
        cannot be known; `labels`, None if unknown; `dtype`, several joined by `+`; `parameters` and `size_bytes`;
        `dropped`, the tensors that loading leaves out on purpose; and `taken_off`, wrappers and prefixes of names.

    Raises:
        CheckpointError: if the file cannot be read, its format is unknown, or tensors are missing or unexpected.
    """
    file = open_weights(path)
    contents = identify(file, num_heads=num_heads)
    vit = contents.vit
    in_dim = contents.tensors["embed.weight"].shape[1] if contents.part == "head" else None
    from_pretraining = contents.part == "backbone" and contents.backbone == "sapiens"
    class_token = [name for name in file.tensors if from_pretraining and name.split(".")[-1] == "cls_token"]
    return {
        "format": contents.format,
        "container": file.container,
        "embed_dim": vit.embed_dim if vit else in_dim,
        "depth": vit.depth if vit else None,
        "num_heads": vit.num_heads or None if vit else None,
        "image_size": contents.image_size,
        "num_classes": contents.num_classes,
        "labels": EMOTIONS.names if contents.format == "motivnet" and contents.num_classes == len(EMOTIONS) else None,
        "dtype": "+".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in contents.tensors.values()})),
        "parameters": sum(tensor.numel() for tensor in contents.tensors.values()),
        "size_bytes": file.path.stat().st_size,
        "dropped": (*contents.dropped, *class_token),
        "taken_off": contents.taken_off,
    }


def identify(file: WeightsFile, *, num_heads: int | None = None, image_size: Size = None) -> Contents:
    """Recognise the format of a released file by its tensor names, and infer its dimensions.

    Args:
        file: opened.
        num_heads: attention heads of the encoder, where they follow neither from its width nor from its metadata.
        image_size: (height, width) of its positions, where their number fits neither a square nor 4:3.

    Raises:
        CheckpointError: if its format is unknown, or a tensor is unexpected in its format.
    """
    file = unwrapped(file, lambda found: is_released(found) or is_of_bundle(found))
    read = _reader(file)
    if read is not None:
        with reraised(CheckpointError, file.path, CheckpointError, ConfigError):
            contents = read(file, num_heads, image_size)
            _check_tensors(contents.tensors)
            return dataclasses.replace(contents, taken_off=file.taken_off)
    if is_of_bundle(file):
        described = "the weights of a bundle, whose dimensions and labels are in its config.json"
        raise CheckpointError(f"{file.path}: {described}. Allowed: the bundle's folder")
    shown = ", ".join(list(file.tensors)[:3])
    raise CheckpointError(
        f"{file.path}: tensors of no known format, such as {shown}. Allowed: {', '.join(FORMATS)}, or a bundle's folder"
    )


def is_of_bundle(file: WeightsFile) -> bool:
    """Tell whether a file has the weights of a bundle."""
    return any(name.startswith("backbone.net.") for name in file.tensors)


def is_released(file: WeightsFile) -> bool:
    """Tell whether a file is in one of `FORMATS`."""
    return _reader(file) is not None


def released_config(
    contents: Contents, geometry: str, image_size: Size = None, *, name: str | None = None, licence: str | None = None
) -> BundleConfig:
    """Describe a released model as a bundle.

    Args:
        contents: of its file, a whole model.
        geometry: `motivnet-pad`, as in the authors' inference, or `motivnet-stretch`, as in their training.
        image_size: (height, width) of the input, in pixels; None takes that of the file.
        name: of the model; None takes that of the file.
        licence: of the weights; None takes what is known about the released file.

    Raises:
        CheckpointError: if the geometry is unknown, or its number of classes is not that of our labels.
    """
    allowed = [allowed for allowed in PREPROCESSINGS if allowed.startswith("motivnet-")]
    require(geometry in allowed, unknown_name("geometry", geometry, allowed), CheckpointError)
    config = contents.model_config(image_size)
    if config.num_classes != len(EMOTIONS):
        raise CheckpointError(
            f"{contents.path}: found a head of {config.num_classes} classes, expected {len(EMOTIONS)}: "
            f"{', '.join(EMOTIONS)}"
        )
    return BundleConfig(
        name=name or contents.path.stem,
        summary=f"MotivNet: Sapiens {config.vit and config.vit.embed_dim} wide, ML-Decoder, as released",
        licence=licence or RELEASED_LICENCE,
        model=config,
        preprocessing=dataclasses.replace(PREPROCESSINGS[geometry], size=config.image_size),
        provenance={"converted_from": contents.path.name, "format": contents.format},
    )


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _read_motivnet(file: WeightsFile, num_heads: int | None, image_size: Size) -> Contents:
    tensors, dropped = MOTIVNET_RELEASED.apply(file.tensors)
    dimensions = _sapiens_dimensions(file, below(tensors, "backbone."), num_heads, image_size)
    dimensions |= _head_dimensions(file, below(tensors, "head."), "decoder_heads")
    return Contents(file.path, "motivnet", "model", tensors, dropped, **dimensions)


def _read_sapiens(file: WeightsFile, num_heads: int | None, image_size: Size) -> Contents:
    tensors, dropped = SAPIENS.apply(file.tensors)
    dimensions = _sapiens_dimensions(file, tensors, num_heads, image_size)
    kind = "sapiens-pretrain" if dimensions["vit"].class_token else "sapiens-task"
    return Contents(file.path, kind, "backbone", tensors, dropped, **dimensions)


def _read_sapiens2(file: WeightsFile, num_heads: int | None, image_size: Size) -> Contents:
    tensors, dropped = SAPIENS2.apply(file.tensors)
    width, in_chans, patch, _ = _shape(tensors, "net.patch_embed.proj.weight", 4)
    # Queries and keys are normalised per head, so that here the number of heads follows from shapes.
    head_dim = _shape(tensors, "net.blocks.0.attn.q_norm.weight", 1)[0]
    depth = _depth(tensors)
    keys = [_shape(tensors, f"net.blocks.{block}.attn.k_proj.weight", 2)[0] for block in range(depth)]
    vit = VitConfig(
        embed_dim=width,
        depth=depth,
        num_heads=num_heads or width // head_dim,
        patch_size=patch,
        patch_padding=0,
        mlp_ratio=_ratio(_shape(tensors, "net.blocks.0.mlp.fc2.weight", 2)[1], width),
        num_kv_heads=min(keys) // head_dim,
    )
    size = image_size or SAPIENS2_SIZE
    return Contents(file.path, "sapiens2", "backbone", tensors, dropped, vit, "sapiens2", size, in_chans)


def _read_ml_decoder(file: WeightsFile, num_heads: int | None, image_size: Size) -> Contents:
    mark = "decoder.embed_standart.weight"
    prefix = next(name for name in file.tensors if name.endswith(mark)).removesuffix(mark)
    own = {name: tensor for name, tensor in below(file.tensors, prefix).items() if name.startswith("decoder.")}
    dropped = tuple(name for name in file.tensors if not name.startswith(f"{prefix}decoder."))
    tensors, _ = ML_DECODER_UPSTREAM.apply(own)
    return Contents(file.path, "ml-decoder", "head", tensors, dropped, **_head_dimensions(file, tensors, "num_heads"))


# Format -> pattern of a name that only this format has, and reader. The first match counts.
FORMATS: Mapping[str, tuple[str, Callable[[WeightsFile, int | None, Size], Contents]]] = {
    "motivnet": (r"pose_encoder\..+", _read_motivnet),
    "sapiens2": (r"(backbone\.)?blocks\.\d+\.attn\.wq\.weight", _read_sapiens2),
    "sapiens": (r"(backbone\.)?layers\.\d+\.attn\.qkv\.weight", _read_sapiens),
    "ml-decoder": (r"(\w+\.)?decoder\.embed_standart\.weight", _read_ml_decoder),
}


def _reader(file: WeightsFile) -> Callable[[WeightsFile, int | None, Size], Contents] | None:
    return next(
        (read for mark, read in FORMATS.values() if any(re.fullmatch(mark, name) for name in file.tensors)), None
    )


def _sapiens_dimensions(
    file: WeightsFile, encoder: Mapping[str, Tensor], num_heads: int | None, image_size: Size
) -> dict[str, Any]:
    """Infer the dimensions of a Sapiens (v1) encoder: the fields `vit`, `image_size` and `in_chans` of Contents."""
    width, in_chans, patch, _ = _shape(encoder, "net.patch_embed.proj.weight", 4)
    class_token = "net.cls_token" in encoder
    num_patches = _shape(encoder, "net.pos_embed", 3)[1] - class_token
    vit = VitConfig(
        embed_dim=width,
        depth=_depth(encoder),
        num_heads=num_heads or _number(file, "num_heads") or SAPIENS_HEADS.get(width, 0),
        patch_size=patch,
        patch_padding=0 if class_token else 2,
        mlp_ratio=_ratio(_shape(encoder, "net.blocks.0.mlp.fc1.weight", 2)[0], width),
        class_token=class_token,
    )
    rows, columns = _grid(num_patches, patch, image_size)
    return {"vit": vit, "image_size": (rows * patch, columns * patch), "in_chans": in_chans}


def _grid(num_patches: int, patch: int, image_size: Size) -> tuple[int, int]:
    """Return rows and columns for a number of patches: a square, else the 4:3 of the task checkpoints."""
    side, unit = math.isqrt(num_patches), math.isqrt(num_patches // 12)
    height, width = image_size or (0, 0)
    for rows, columns in ((side, side), (4 * unit, 3 * unit), (height // patch, width // patch)):
        if rows * columns == num_patches:
            return rows, columns
    raise CheckpointError(
        f"{num_patches} positions fit neither a square nor a 4:3 grid of patches. Allowed: the image_size that they "
        f"are for"
    )


def _head_dimensions(file: WeightsFile, head: Mapping[str, Tensor], heads_key: str) -> dict[str, Any]:
    """Infer the dimensions of an ML-Decoder: the fields `head` and `num_classes` of Contents."""
    num_queries, dim = _shape(head, "queries", 2)
    num_classes = _shape(head, "group_bias", 1)[0]
    config = HeadConfig(
        dim=dim,
        num_queries=None if num_queries == num_classes else num_queries,
        num_layers=len({name.split(".")[1] for name in head if name.startswith("layers.")}),
        num_heads=_number(file, heads_key) or ML_DECODER_HEADS,
        ff_dim=_shape(head, "layers.0.ff_in.weight", 2)[0],
    )
    return {"head": config, "num_classes": num_classes}


def _ratio(hidden: int, width: int) -> float:
    """Return the ratio that gives the hidden width when a model multiplies it by its width and rounds down."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _depth(encoder: Mapping[str, Tensor]) -> int:
    return len({name.split(".")[2] for name in encoder if name.startswith("net.blocks.")})


def _shape(tensors: Mapping[str, Tensor], name: str, ndim: int) -> tuple[int, ...]:
    require(name in tensors, f"incomplete: there is no tensor for {name!r}", CheckpointError)
    shape = tuple(tensors[name].shape)
    if len(shape) != ndim or not all(shape):
        raise CheckpointError(f"{name}: found shape {shape}, expected {ndim} dimensions")
    return shape


def _number(file: WeightsFile, key: str) -> int | None:
    """Return a number from the safetensors metadata."""
    text = file.metadata.get(key)
    if text is None:
        return None
    if not re.fullmatch(r"[1-9]\d{0,5}", text, re.ASCII):
        raise CheckpointError(f"metadata {key!r}: found {text[:20]!r}, expected a number above 0")
    return int(text)


def _check_tensors(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{name}: found shape {tuple(tensor.shape)}, more values than the file holds")
        require(tensor.is_floating_point(), f"{name}: found {tensor.dtype}. Allowed: floating point", CheckpointError)

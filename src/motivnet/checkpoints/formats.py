"""What a file of weights holds: its format and dimensions, read off names and shapes of its tensors.

Nothing is guessed from the file's name. The one thing that shapes cannot tell is the number of attention heads.

Shape suffixes: N tokens, D token width.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from motivnet.checkpoints.files import WeightsFile, open_weights
from motivnet.checkpoints.keymaps import ML_DECODER_UPSTREAM, MOTIVNET_RELEASED, SAPIENS, SAPIENS2, KeyMap
from motivnet.errors import CheckpointError, ConfigError
from motivnet.labels import EMOTIONS
from motivnet.models.config import HeadConfig, ModelConfig, VitConfig

Part = Literal["model", "backbone", "head"]

# Attention heads of the released encoders by width (Sapiens: arXiv 2408.12569, table of architectures).
SAPIENS_HEADS: Mapping[int, int] = {1024: 16, 1280: 16, 1536: 24, 1920: 32}
# ML-Decoder's own default, which no released file departs from (arXiv 2111.12933).
ML_DECODER_HEADS = 8
# Rotary positions leave no trace of the input's size in the weights: what all Sapiens2 files were made for.
SAPIENS2_SIZE = (1024, 768)


@dataclasses.dataclass(frozen=True, slots=True)
class Contents:
    """What a file of weights turned out to hold.

    Args:
        path: the file.
        format: one of `FORMATS`.
        part: what the tensors make up.
        tensors: under our names, memory-mapped; of a `backbone` and a `head` relative to it.
        dropped: the file's names of what was left out on purpose.
        vit: dimensions of the encoder but for its heads, which are 0 where they are unknown; None for a `head`.
        backbone: the kind of encoder, `sapiens` or `sapiens2`.
        image_size: (height, width) in pixels that its positions were made for; None for a `head`.
        in_chans: channels of the input.
        head: dimensions of the head; None for a `backbone`.
        num_classes: number of logits; None for a `backbone`.
    """

    path: Path
    format: str
    part: Part
    tensors: dict[str, Tensor]
    dropped: tuple[str, ...]
    vit: VitConfig | None = None
    backbone: str = "sapiens"
    image_size: tuple[int, int] | None = None
    in_chans: int = 3
    head: HeadConfig | None = None
    num_classes: int | None = None

    def model_config(self, image_size: tuple[int, int] | None = None) -> ModelConfig:
        """Give the dimensions of the model; of a `backbone` with a head that is not in it.

        Args:
            image_size: (height, width) in pixels; None takes the file's own.

        Raises:
            CheckpointError: if the number of attention heads is unknown, or the dimensions do not fit together.
        """
        assert self.vit
        assert self.image_size
        if not self.vit.num_heads:
            released = ", ".join(f"{width}: {heads}" for width, heads in SAPIENS_HEADS.items())
            raise CheckpointError(
                f"{self.path}: the number of attention heads of an encoder {self.vit.embed_dim} wide cannot be read "
                f"off its tensors. Allowed: num_heads=, metadata 'num_heads' in safetensors, or a released width "
                f"({released})"
            )
        height, width = image_size or self.image_size
        try:
            return ModelConfig(
                backbone=self.backbone,
                image_size=(height, width),
                in_chans=self.in_chans,
                num_classes=self.num_classes or len(EMOTIONS),
                vit=self.vit,
                head=self.head or HeadConfig(),
            )
        except ConfigError as error:
            raise CheckpointError(f"{self.path}: {error}") from None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What people want to know of a file of weights.

    Args:
        format: of its names.
        container: how the tensors are packed: safetensors, pickle, torchscript.
        embed_dim: width of the encoder's tokens.
        depth: number of blocks of the encoder.
        num_heads: attention heads of the encoder; None if they are unknown.
        image_size: (height, width) in pixels.
        num_classes: number of logits; None without a head.
        labels: names of the logits; None if the file does not say.
        dtype: of the weights; several are joined by `+`.
        parameters: numbers in the tensors that are used.
        size_bytes: of the file.
        dropped: names of tensors that are left out on purpose; at another size than that of pre-training also the
            class token.
    """

    format: str
    container: str
    embed_dim: int | None
    depth: int | None
    num_heads: int | None
    image_size: tuple[int, int] | None
    num_classes: int | None
    labels: tuple[str, ...] | None
    dtype: str
    parameters: int
    size_bytes: int
    dropped: tuple[str, ...]


def inspect_weights(path: str | Path, *, num_heads: int | None = None) -> Inspection:
    """Say what a file of weights holds, without loading it.

    Raises:
        CheckpointError: if it cannot be read, or is of no known format.
    """
    file = open_weights(path)
    contents = identify(file, num_heads=num_heads)
    vit = contents.vit
    in_dim = contents.tensors["embed.weight"].shape[1] if contents.part == "head" else None
    return Inspection(
        format=contents.format,
        container=file.container,
        embed_dim=vit.embed_dim if vit else in_dim,
        depth=vit.depth if vit else None,
        num_heads=vit.num_heads or None if vit else None,
        image_size=contents.image_size,
        num_classes=contents.num_classes,
        labels=EMOTIONS.names if contents.format == "motivnet" and contents.num_classes == len(EMOTIONS) else None,
        dtype="+".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in contents.tensors.values()})),
        parameters=sum(tensor.numel() for tensor in contents.tensors.values()),
        size_bytes=file.path.stat().st_size,
        dropped=contents.dropped + tuple(name for name in file.tensors if _is_class_token(contents, name)),
    )


def _is_class_token(contents: Contents, name: str) -> bool:
    return contents.part == "backbone" and contents.backbone == "sapiens" and name.split(".")[-1] == "cls_token"


def identify(file: WeightsFile, *, num_heads: int | None = None, image_size: tuple[int, int] | None = None) -> Contents:
    """Recognise the format of a released file by its tensor names, and read off its dimensions.

    Args:
        file: opened.
        num_heads: attention heads of the encoder, where neither its width nor its metadata tells.
        image_size: (height, width) its positions were made for, where their number fits neither a square nor 4:3.

    Raises:
        CheckpointError: if it is of no known format, or a tensor has no place in its format.
    """
    for mark, read in FORMATS.values():
        if any(re.fullmatch(mark, name) for name in file.tensors):
            contents = read(file, num_heads, image_size)
            _check_tensors(contents)
            return contents
    if any(name.startswith("backbone.net.") for name in file.tensors):
        raise CheckpointError(
            f"{file.path}: the weights of a bundle, which say nothing of dimensions and labels without its "
            f"config.json. Allowed: the bundle's folder"
        )
    shown = ", ".join(list(file.tensors)[:3])
    raise CheckpointError(
        f"{file.path}: tensors of no known format, such as {shown}. Allowed: {', '.join(FORMATS)}, or a bundle's folder"
    )


def _read_motivnet(file: WeightsFile, num_heads: int | None, image_size: tuple[int, int] | None) -> Contents:
    tensors, dropped = _apply(MOTIVNET_RELEASED, file.tensors, file)
    encoder = {
        name.removeprefix("backbone."): tensor for name, tensor in tensors.items() if name.startswith("backbone.")
    }
    head = {name.removeprefix("head."): tensor for name, tensor in tensors.items() if name.startswith("head.")}
    vit, size = _sapiens_dimensions(file, encoder, num_heads, image_size)
    config, num_classes = _head_dimensions(file, head, "decoder_heads")
    return Contents(
        file.path,
        "motivnet",
        "model",
        tensors,
        dropped,
        vit=vit,
        image_size=size,
        in_chans=_shape(file, encoder, "net.patch_embed.proj.weight", 4)[1],
        head=config,
        num_classes=num_classes,
    )


def _read_sapiens(file: WeightsFile, num_heads: int | None, image_size: tuple[int, int] | None) -> Contents:
    tensors, dropped = _apply(SAPIENS, file.tensors, file)
    vit, size = _sapiens_dimensions(file, tensors, num_heads, image_size)
    return Contents(
        file.path,
        "sapiens-pretrain" if vit.class_token else "sapiens-task",
        "backbone",
        tensors,
        dropped,
        vit=vit,
        image_size=size,
        in_chans=_shape(file, tensors, "net.patch_embed.proj.weight", 4)[1],
    )


def _read_sapiens2(file: WeightsFile, num_heads: int | None, image_size: tuple[int, int] | None) -> Contents:
    tensors, dropped = _apply(SAPIENS2, file.tensors, file)
    width, in_chans, patch, _ = _shape(file, tensors, "net.patch_embed.proj.weight", 4)
    # Queries and keys are normalised a head at a time, so that here the shapes do tell.
    head_dim = _shape(file, tensors, "net.blocks.0.attn.q_norm.weight", 1)[0]
    depth = _depth(tensors)
    kv_heads = {
        _shape(file, tensors, f"net.blocks.{block}.attn.k_proj.weight", 2)[0] // head_dim for block in range(depth)
    }
    vit = VitConfig(
        embed_dim=width,
        depth=depth,
        num_heads=num_heads or width // head_dim,
        patch_size=patch,
        patch_padding=0,
        mlp_ratio=_ratio(_shape(file, tensors, "net.blocks.0.mlp.fc2.weight", 2)[1], width),
        num_kv_heads=min(kv_heads),
    )
    return Contents(
        file.path,
        "sapiens2",
        "backbone",
        tensors,
        dropped,
        vit=vit,
        backbone="sapiens2",
        image_size=image_size or SAPIENS2_SIZE,
        in_chans=in_chans,
    )


def _read_ml_decoder(file: WeightsFile, num_heads: int | None, image_size: tuple[int, int] | None) -> Contents:
    mark = "decoder.embed_standart.weight"
    place = next(name for name in file.tensors if name.endswith(mark)).removesuffix(mark)
    own = {
        name.removeprefix(place): tensor for name, tensor in file.tensors.items() if name.startswith(place + "decoder.")
    }
    others = tuple(name for name in file.tensors if not name.startswith(place + "decoder."))
    tensors, _ = _apply(ML_DECODER_UPSTREAM, own, file)
    config, num_classes = _head_dimensions(file, tensors, "num_heads")
    return Contents(file.path, "ml-decoder", "head", tensors, others, head=config, num_classes=num_classes)


# Format -> a name that no other format has, and what reads its dimensions. The first whose name occurs is taken.
FORMATS: Mapping[str, tuple[str, Callable[[WeightsFile, int | None, tuple[int, int] | None], Contents]]] = {
    "motivnet": (r"pose_encoder\..+", _read_motivnet),
    "sapiens2": (r"(backbone\.)?blocks\.\d+\.attn\.wq\.weight", _read_sapiens2),
    "sapiens": (r"(backbone\.)?layers\.\d+\.attn\.qkv\.weight", _read_sapiens),
    "ml-decoder": (r"(\w+\.)?decoder\.embed_standart\.weight", _read_ml_decoder),
}


def _apply(keymap: KeyMap, state: Mapping[str, Tensor], file: WeightsFile) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    try:
        return keymap.apply(state)
    except CheckpointError as error:
        raise CheckpointError(f"{file.path}: {error}") from None


def _sapiens_dimensions(
    file: WeightsFile, encoder: Mapping[str, Tensor], num_heads: int | None, image_size: tuple[int, int] | None
) -> tuple[VitConfig, tuple[int, int]]:
    """Read off the dimensions of a Sapiens (v1) encoder, and the input size of its positions."""
    width, _, patch, _ = _shape(file, encoder, "net.patch_embed.proj.weight", 4)
    class_token = "net.cls_token" in encoder
    num_patches = _shape(file, encoder, "net.pos_embed", 3)[1] - class_token
    vit = VitConfig(
        embed_dim=width,
        depth=_depth(encoder),
        num_heads=num_heads or _number(file, "num_heads") or SAPIENS_HEADS.get(width, 0),
        patch_size=patch,
        patch_padding=0 if class_token else 2,
        mlp_ratio=_ratio(_shape(file, encoder, "net.blocks.0.mlp.fc1.weight", 2)[0], width),
        class_token=class_token,
    )
    rows, columns = _grid(file, num_patches, patch, image_size)
    return vit, (rows * patch, columns * patch)


def _grid(file: WeightsFile, num_patches: int, patch: int, image_size: tuple[int, int] | None) -> tuple[int, int]:
    """Find rows and columns of a number of patches: a square, else the 4:3 of the task checkpoints."""
    side = math.isqrt(num_patches)
    if side * side == num_patches:
        return side, side
    unit = math.isqrt(num_patches // 12)
    if 12 * unit * unit == num_patches:
        return 4 * unit, 3 * unit
    size = image_size or (0, 0)
    if size[0] // patch * (size[1] // patch) == num_patches:
        return size[0] // patch, size[1] // patch
    raise CheckpointError(
        f"{file.path}: {num_patches} positions fit neither a square nor a 4:3 grid of patches. "
        f"Allowed: the image_size that they were made for"
    )


def _head_dimensions(file: WeightsFile, head: Mapping[str, Tensor], heads_key: str) -> tuple[HeadConfig, int]:
    num_queries, dim = _shape(file, head, "queries", 2)
    num_classes = _shape(file, head, "group_bias", 1)[0]
    config = HeadConfig(
        dim=dim,
        num_queries=None if num_queries == num_classes else num_queries,
        num_layers=len({name.split(".")[1] for name in head if name.startswith("layers.")}),
        num_heads=_number(file, heads_key) or ML_DECODER_HEADS,
        ff_dim=_shape(file, head, "layers.0.ff_in.weight", 2)[0],
    )
    return config, num_classes


def _ratio(hidden: int, width: int) -> float:
    """Give the ratio that a model multiplies by its width and rounds down, to get what is hidden."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _depth(encoder: Mapping[str, Tensor]) -> int:
    return len({name.split(".")[2] for name in encoder if name.startswith("net.blocks.")})


def _shape(file: WeightsFile, tensors: Mapping[str, Tensor], name: str, ndim: int) -> tuple[int, ...]:
    if name not in tensors:
        raise CheckpointError(f"{file.path}: incomplete: there is no tensor for {name!r}")
    shape = tuple(tensors[name].shape)
    if len(shape) != ndim or not all(shape):
        raise CheckpointError(f"{file.path}: {name}: found shape {shape}, expected {ndim} dimensions")
    return shape


def _number(file: WeightsFile, key: str) -> int | None:
    """Read a number of safetensors metadata."""
    text = file.metadata.get(key)
    if text is None:
        return None
    if not re.fullmatch(r"[1-9]\d{0,5}", text, re.ASCII):
        raise CheckpointError(f"{file.path}: metadata {key!r}: found {text[:20]!r}, expected a number above 0")
    return int(text)


def _check_tensors(contents: Contents) -> None:
    for name, tensor in contents.tensors.items():
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{contents.path}: {name}: found shape {tuple(tensor.shape)}, more values than the file holds"
            )
    wrong = collections.Counter(
        str(tensor.dtype) for tensor in contents.tensors.values() if not tensor.is_floating_point()
    )
    if wrong:
        found = ", ".join(f"{count} of {dtype}" for dtype, count in wrong.items())
        raise CheckpointError(f"{contents.path}: found tensors {found}. Allowed: floating point")

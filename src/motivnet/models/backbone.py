"""Backbones: any timm architecture as an encoder from pixels to tokens.

Shape suffixes: B images, C channels, H height, W width of the input; N tokens, D token width.
"""

import difflib
import functools
import inspect
import math
import sys
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import timm
import torch
from timm.layers import Conv2dSame
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.func import functional_call

from motivnet.models.config import VitConfig

# Sapiens2 shares key and value heads between queries in all blocks but the first and the last eight.
SAPIENS2_FULL_BLOCKS = 8

# Largest number of patches for which explicit attention in bfloat16 on the CPU is faster than the fused kernel.
SHORT = 400

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# What timm's models raise for unsupported settings or sizes.
UNFIT = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


class Backbone(nn.Module):
    """A model of timm, or like timm's, that returns tokens (B, N, D) without class or register tokens."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.embed_dim = cast(int, net.num_features)
        # A few timm models have a class token but no num_prefix_tokens.
        uncounted = int(isinstance(getattr(net, "cls_token", None), Tensor))
        self.num_prefix_tokens = cast(int, getattr(net, "num_prefix_tokens", uncounted))
        self.takes_clips = cast(bool, getattr(net, "takes_clips", False))

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Map normalised pixels (B, C, H, W) to tokens (B, N, D), in row-major order of the image.

        If it `takes_clips`, also clips (B, T, C, H, W), whose tokens come one image after the other.

        Raises:
            ValueError: if the model returns neither one feature map nor one sequence of tokens.
        """
        features = cast(Any, self.net.forward_features)(pixels_BCHW)
        if not isinstance(features, Tensor) or features.ndim not in (3, 4):
            raise ValueError(f"{type(self.net).__name__} returns neither one feature map nor one sequence of tokens")
        if features.ndim == 3:
            return features[:, self.num_prefix_tokens :]
        if getattr(self.net, "output_fmt", "NCHW") == "NHWC":
            features = features.permute(0, 3, 1, 2)
        return features.flatten(2).transpose(1, 2)


def build_sapiens(kind: str, *, image_size: tuple[int, int], in_chans: int, vit: VitConfig) -> Backbone:
    """Build the encoder of Sapiens (v1) or Sapiens2 from timm's, with random weights.

    - `sapiens` (arXiv 2408.12569): a vision transformer, pre-norm, LayerNorm eps 1e-6, exact GELU, qkv bias, learned or
      fixed positions.
    - `sapiens2` (arXiv 2604.21681): rotary positions, RMS norms, gated MLPs, a class token and eight registers.

    Args:
        kind: `sapiens` or `sapiens2`.
        image_size: (height, width), in pixels.
        in_chans: channels of the input.
        vit: dimensions.
    """
    settings: dict[str, Any] = {
        **{name: getattr(vit, name) for name in ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")},
        **{"img_size": image_size, "in_chans": in_chans, "global_pool": "", "num_classes": 0},
    }
    if kind == "sapiens2":
        middle = range(SAPIENS2_FULL_BLOCKS, vit.depth - SAPIENS2_FULL_BLOCKS)
        shared = vit.num_kv_heads or vit.num_heads
        kv_heads = tuple(shared if block in middle else vit.num_heads for block in range(vit.depth))
        net = timm.create_model("vit_base_patch16_sapiens2", num_kv_heads=kv_heads, **settings)
        if vit.rope_bfloat16:
            _rotate_in_bfloat16(net, image_size, vit)
        return Backbone(net)
    norm: Any = functools.partial(nn.LayerNorm, eps=1e-6)
    net = VisionTransformer(class_token=vit.class_token, norm_layer=norm, **settings)
    cast(nn.Conv2d, net.patch_embed.proj).padding = (vit.patch_padding, vit.patch_padding)
    return Backbone(net)


class _Bfloat16Rope(nn.Module):
    """A rotary embedding for one size, every step of it in bfloat16 (`RopePositionEmbedding` of Sapiens2)."""

    table: Tensor

    def __init__(self, grid: tuple[int, int], head_dim: int, temperature: float) -> None:
        super().__init__()
        rows, columns = (torch.arange(0.5, side, dtype=torch.bfloat16) / side for side in grid)
        coords_N2 = 2 * torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1) - 1
        periods = temperature ** (2 * torch.arange(head_dim // 4, dtype=torch.bfloat16) / (head_dim // 2))
        angles = (2 * math.pi * coords_N2[:, :, None] / periods).flatten(1).tile(2)
        self.register_buffer("table", torch.cat([angles.sin(), angles.cos()], -1), persistent=False)

    def get_embed(self, shape: object = None) -> Tensor:
        """Return sines and cosines (N, 2 * head_dim), as timm's rotary embeddings do."""
        return self.table.bfloat16()


def _rotate_in_bfloat16(net: Any, image_size: tuple[int, int], vit: VitConfig) -> None:
    height, width = image_size
    grid, temperature = (height // vit.patch_size, width // vit.patch_size), net.rope.temperature
    net.rope = _Bfloat16Rope(grid, vit.embed_dim // vit.num_heads, temperature)
    for block in net.blocks:
        for norm in (block.attn.q_norm, block.attn.k_norm):
            norm.register_forward_hook(_to_bfloat16)  # timm rotates next, and then returns to the dtype of the values


def _to_bfloat16(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.bfloat16()


def build_timm(name: str, *, image_size: tuple[int, int], in_chans: int, drop_path: float) -> Backbone:
    """Build any timm model by name, with random weights.

    Args:
        name: in timm; a tag of pre-trained weights after a dot is allowed and has no effect.
        image_size: (height, width), in pixels.
        in_chans: channels of the input.
        drop_path: stochastic depth rate.

    Raises:
        ValueError: if timm has no such model, or it does not support such images or returns no tokens.
    """
    pretrained_cfg = _pretrained_cfg(name)
    settings: dict[str, Any] = {"in_chans": in_chans, "num_classes": 0}
    if drop_path:
        settings["drop_path_rate"] = drop_path
    # Position embeddings and windows are built for one size; convolutional models have no such argument.
    if pretrained_cfg is not None and pretrained_cfg.fixed_input_size:
        settings["img_size"] = image_size
    try:
        backbone = Backbone(_create(name, settings))
        _check_tokens(backbone, image_size, in_chans)
    except UNFIT as error:
        (height, width), own = image_size, ""
        if pretrained_cfg is not None:
            own = " (its own are of {1}x{2} with {0})".format(*pretrained_cfg.input_size)
        raise ValueError(
            f"timm's {name} cannot be a backbone for images of {height}x{width} with {in_chans} channel(s){own}: "
            f"{str(error) or type(error).__name__}"
        ) from None
    return backbone


def timm_name(architecture: str, tag: str | None) -> str:
    """Return timm's name of weights; of those with a tag that it does not know, the architecture's."""
    name = f"{architecture}.{tag}"
    return name if name in timm.list_pretrained(f"{architecture}.*") else architecture


def _pretrained_cfg(name: str) -> Any:
    """Return timm's description of a model's pre-trained weights, or None.

    Raises:
        ValueError: if it has no model of that name, or no weights of that tag.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=8)
        raise ValueError(f"timm has no model {name!r}; near it: {', '.join(close) or 'none'}")
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError:
        tagged = timm.list_pretrained(f"{architecture}.*")
        raise ValueError(
            f"timm has no weights {tag!r} of {architecture}. Allowed: {', '.join([architecture, *tagged])}"
        ) from None


def _create(name: str, settings: dict[str, Any]) -> nn.Module:
    try:
        # With pooling, some transformers skip the norm of their tokens.
        return timm.create_model(name, global_pool="", **settings)
    except (AssertionError, TypeError):
        # Others require pooling, which comes after the tokens that are used here.
        return timm.create_model(name, **settings)


def _check_tokens(backbone: Backbone, image_size: tuple[int, int], in_chans: int) -> None:
    """Run a backbone on the meta device, without memory or arithmetic, and check the shape of its tokens.

    Raises:
        ValueError: if they are not of its width, one per position. timm's models raise other errors as well.
    """
    patches = getattr(backbone.net, "patch_embed", None)
    # Otherwise timm would silently crop the remaining rows and columns.
    if isinstance(patches, PatchEmbed) and not patches.dynamic_img_pad:
        sides = cast(tuple[int, int], patches.patch_size)
        if any(side % patch for side, patch in zip(image_size, sides, strict=True)):
            raise ValueError(f"height and width must be divisible by its patches of {patches.patch_size}")
    shapes = _Shapes(backbone)
    weights = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in (*shapes.named_parameters(), *shapes.named_buffers())
    }
    shapes.eval()
    with torch.device("meta"), torch.no_grad():
        (_, num_tokens, width), num_positions = functional_call(shapes, weights, torch.empty(1, in_chans, *image_size))
    # Some models keep tables for evaluation, now without content, which training mode clears.
    shapes.train()
    if num_tokens < 1 or width != backbone.embed_dim:
        raise ValueError(f"it returns {num_tokens} token(s) of width {width}, expected width {backbone.embed_dim}")
    # A few merge neighbours at the end: then the number of positions is a multiple.
    if num_positions % num_tokens:
        raise ValueError(f"it returns {num_tokens} tokens for {num_positions} positions, so some are of another kind")


class _Shapes(nn.Module):
    """Returns the shape of a backbone's tokens, and the number of positions in timm's last feature map."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels_BCHW: Tensor) -> tuple[torch.Size, int]:
        shape, net = self.backbone(pixels_BCHW).shape, cast(Any, self.backbone.net)
        if not hasattr(net, "forward_intermediates"):
            return shape, shape[1]
        (features_BDHW,) = net.forward_intermediates(pixels_BCHW, indices=1, intermediates_only=True)
        return shape, features_BDHW[0, 0].numel()


def resize_positions(
    pos_embed_1ND: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int], *, num_prefix_tokens: int = 0
) -> Tensor:
    """Resize the position embedding of a transformer to another grid of patches: bicubic, as in Sapiens.

    Args:
        pos_embed_1ND: (1, prefix + rows * columns, D).
        old_grid: its (rows, columns) of patches.
        new_grid: wanted (rows, columns).
        num_prefix_tokens: positions before those of the grid, which are kept.

    Returns:
        (1, prefix + rows * columns, D) for the new grid, in float32.
    """
    # Neither corner alignment nor antialiasing, as in the released task checkpoints.
    return resample_abs_pos_embed(
        pos_embed_1ND.float(),
        new_size=list(new_grid),
        old_size=list(old_grid),
        num_prefix_tokens=num_prefix_tokens,
        interpolation="bicubic",
        antialias=False,
    )


def filter_weights(tensors: Mapping[str, Tensor], net: nn.Module, name: str) -> dict[str, Tensor]:
    """Apply timm's own filter of an architecture, which renames other publishers' tensors and resizes positions.

    Args:
        tensors: of a file; returned as they are if the filter does not know their names, or there is none.
        net: timm's model.
        name: of the model in timm.
    """
    module = sys.modules[timm.models.model_entrypoint(name.partition(".")[0]).__module__]
    apply = getattr(module, "checkpoint_filter_fn", None) or getattr(module, "_filter_fn", None)
    if apply is None:
        return dict(tensors)
    arguments = (dict(tensors), net)[: len(inspect.signature(apply).parameters)]
    try:
        return dict(apply(*arguments))
    except UNFIT:
        return dict(tensors)


def shift_of(net: nn.Module, stem: str) -> str | None:
    """Return the name of the tensor that shifts the outputs of a convolution of three colours.

    Args:
        net: timm's model.
        stem: name of the convolution.

    Returns:
        Its bias, or the mean of the batch norm that follows it; None if there is neither.
    """
    modules = dict(net.named_modules())
    conv = modules.get(stem)
    # Others, such as those with standardised weights, do not weigh colours by their kernel.
    if not isinstance(conv, nn.Conv2d) or type(conv) not in (nn.Conv2d, Conv2dSame) or conv.in_channels != 3:
        return None
    if conv.bias is not None:
        return f"{stem}.bias"
    later = list(modules)[list(modules).index(stem) + 1 :]
    norms = [name for name in later if isinstance(modules[name], nn.BatchNorm2d)]
    return f"{norms[0]}.running_mean" if norms else None


def to_channels_last(model: ModuleT) -> ModuleT:
    """Lay out the kernels of a model channels last, in place; those of clips have no such layout, and stay."""
    if any(parameter.ndim > 4 for parameter in model.parameters()):
        return model
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class Float32Conv2d(nn.Conv2d):
    """A convolution that stays in float32 under autocast."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve in float32."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def has_depthwise(model: nn.Module) -> bool:
    """Tell whether a model has depthwise convolutions, which need float32 on the CPU."""
    return any(map(_is_depthwise, model.modules()))


def keep_depthwise_float32(model: nn.Module) -> None:
    """Exclude the depthwise convolutions of a model from autocast, in place; weights and their names stay.

    In bfloat16 they gain nothing, and on the CPU they crash some builds of torch (heap corruption in 2.14).
    """
    for module in model.modules():
        if type(module) is nn.Conv2d and _is_depthwise(module):
            module.__class__ = Float32Conv2d


def write_out_short_attention(model: nn.Module) -> None:
    """Compute attention between few patches explicitly instead of with the fused kernel, in place; results stay.

    For bfloat16 on the CPU, where the fused kernel of torch 2.14 takes seven times as long for 36 patches and twice as
    long for 192; for 768 it is faster, and saves memory.
    """
    counts = [module.num_patches for module in model.modules() if isinstance(module, PatchEmbed)]
    if counts and all(count is not None and count <= SHORT for count in counts):
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                cast(Any, module).fused_attn = False


def _is_depthwise(module: nn.Module) -> bool:
    # With one input channel, ordinary convolutions have as many groups as channels, too.
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1

"""Backbones: an image in, tokens out, whatever the architecture.

Shape suffixes: B images, C channels, H height, W width of the input; N tokens, D token width.
"""

import functools
from typing import cast

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class Backbone(nn.Module):
    """A timm model without its classifier, giving tokens (B, N, D) without class or register tokens."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.embed_dim = cast(int, net.num_features)
        self.num_prefix_tokens = cast(int, getattr(net, "num_prefix_tokens", 0))

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Map normalised pixels (B, C, H, W) to tokens (B, N, D), in row-major order of the image."""
        features = cast(Tensor, self.net.forward_features(pixels_BCHW))  # type: ignore[operator]
        if features.ndim == 4:
            if features.shape[1] != self.embed_dim:  # some timm models keep channels last
                features = features.permute(0, 3, 1, 2)
            return features.flatten(2).transpose(1, 2)
        return features[:, self.num_prefix_tokens :]


def build_sapiens(
    *,
    image_size: tuple[int, int],
    in_chans: int,
    embed_dim: int,
    depth: int,
    num_heads: int,
    patch_size: int,
    patch_padding: int,
    mlp_ratio: float,
) -> Backbone:
    """Build a Sapiens (v1) encoder out of timm's vision transformer, with random weights.

    Args:
        image_size: (height, width), in pixels.
        in_chans: channels of the input.
        embed_dim: width.
        depth: number of blocks.
        num_heads: attention heads.
        patch_size: side of a patch, in pixels.
        patch_padding: zero rows around the image before patching; task checkpoints were trained with 2.
        mlp_ratio: hidden width of the MLP over `embed_dim`.
    """
    net = VisionTransformer(
        img_size=image_size,
        patch_size=patch_size,
        in_chans=in_chans,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        class_token=False,
        global_pool="",
        num_classes=0,
        norm_layer=functools.partial(nn.LayerNorm, eps=1e-6),
    )
    cast(nn.Conv2d, net.patch_embed.proj).padding = (patch_padding, patch_padding)
    return Backbone(net)


def build_timm(name: str, *, image_size: tuple[int, int], in_chans: int, drop_path: float) -> Backbone:
    """Build any timm model by name, with random weights.

    Raises:
        ValueError: if timm has no such model.
    """
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_')[0].split('.')[0]}*")[:8]
        raise ValueError(f"timm has no model {name!r}; near it: {', '.join(close) or 'none'}")
    settings = {"in_chans": in_chans, "num_classes": 0, "global_pool": "", "drop_path_rate": drop_path}
    # Transformers build their position embedding for one size; convolutions have no such argument.
    if name.startswith(("vit_", "deit", "eva")):
        settings["img_size"] = image_size
    return Backbone(timm.create_model(name, **settings))


class Float32Conv2d(nn.Conv2d):
    """A convolution that stays in float32 under autocast."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve in float32."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def keep_depthwise_float32(model: nn.Module) -> None:
    """Keep a model's depthwise convolutions out of autocast, in place; its weights and their names stay.

    In bfloat16 they gain nothing, and on the CPU they crash some builds of torch (heap corruption in 2.14).
    """
    for module in model.modules():
        if type(module) is nn.Conv2d and module.groups == module.in_channels:
            module.__class__ = Float32Conv2d

"""MotivNet: a backbone that maps pixels to tokens, and a head that maps tokens to logits.

A clip is an image whose channels are those of one frame after the other, so that everything that handles images also
handles clips.

Shape suffixes: B images, T frames, C channels or classes, H height, W width, N tokens, D token width, K outputs of the
head.
"""

import dataclasses
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from motivnet.errors import ConfigError, reraised
from motivnet.labels import AFFECT
from motivnet.models.backbone import Backbone, build_sapiens, build_timm
from motivnet.models.config import HeadConfig, ModelConfig
from motivnet.models.heads import AttentionPoolHead, LinearHead, MlpHead
from motivnet.models.ml_decoder import MLDecoder
from motivnet.models.transformers_encoder import build_transformers

# What a model of clips has beside that of images.
FRAME_EMBED = "head.frame_embed"


class Outputs(NamedTuple):
    """All outputs of a model.

    Attributes:
        logits: of the classes, (B, C).
        affect: valence and arousal from -1 to 1, float32 (B, 2); None for a model without.
    """

    logits: Tensor
    affect: Tensor | None


class MotivNet(nn.Module):
    """Backbone and head."""

    def __init__(self, backbone: Backbone, head: nn.Module, *, affect: bool = False, num_frames: int = 0) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.affect = affect
        self.num_frames = num_frames
        if num_frames and not backbone.takes_clips:
            # Nothing at first, so that a model of images is continued.
            head.frame_embed = nn.Parameter(torch.zeros(num_frames, 1, backbone.embed_dim))

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Map normalised pixels (B, C, H, W) to logits (B, C)."""
        return self.forward_head(self.forward_features(pixels_BCHW))

    def forward_features(self, pixels_BCHW: Tensor) -> Tensor:
        """Map normalised pixels (B, C, H, W), or clips (B, T * C, H, W), to tokens (B, N, D), as timm's models do.

        The tokens of a clip come frame by frame, T times as many. `Backbone` takes clips (B, T, C, H, W), too.
        """
        if not self.num_frames:
            return self.backbone(pixels_BCHW)
        clips_BTCHW = pixels_BCHW.unflatten(1, (self.num_frames, -1))
        if self.backbone.takes_clips:
            return self.backbone(clips_BTCHW)
        tokens_BTND = self.backbone(clips_BTCHW.flatten(0, 1)).unflatten(0, (-1, self.num_frames))
        return (tokens_BTND + cast(Tensor, self.head.frame_embed)).flatten(1, 2)

    def forward_head(self, tokens_BND: Tensor) -> Tensor:
        """Map tokens (B, N, D) to logits (B, C), as timm's models do."""
        return self._split(self.head(tokens_BND)).logits

    def outputs(self, pixels_BCHW: Tensor) -> Outputs:
        """Map normalised pixels (B, C, H, W) to logits, and to valence and arousal if the model has them."""
        return self._split(self.head(self.forward_features(pixels_BCHW)))

    def _split(self, answers_BK: Tensor) -> Outputs:
        if not self.affect:
            return Outputs(answers_BK, None)
        # In half precision, tanh would be coarse near its ends.
        return Outputs(answers_BK[:, : -len(AFFECT)], answers_BK[:, -len(AFFECT) :].float().tanh())


class AllOutputs(nn.Module):
    """A module whose `forward` returns all outputs of a model, for compilers and exporters."""

    def __init__(self, model: MotivNet) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, pixels_BCHW: Tensor) -> Outputs:
        """Return `MotivNet.outputs`."""
        return self.model.outputs(pixels_BCHW)


def affect_names(model: MotivNet) -> set[str]:
    """Return the names of the weights that only valence and arousal use."""
    return {name for name in model.state_dict() if name.startswith("head.affect")}


def build_model(config: ModelConfig) -> MotivNet:
    """Build a model with random weights.

    Raises:
        ConfigError: if its dimensions do not fit together.
    """
    with reraised(ConfigError, "model", ValueError):
        backbone = build_backbone(config)
        head = build_head(config.head, backbone.embed_dim, config.num_classes, affect=config.affect)
        return MotivNet(backbone, head, affect=config.affect, num_frames=config.num_frames or 0)


def build_backbone(config: ModelConfig) -> Backbone:
    """Build the backbone of a model alone, with random weights.

    Raises:
        ValueError: if its dimensions do not fit together.
    """
    size = {"image_size": config.image_size, "in_chans": config.in_chans}
    if config.transformers is not None:
        return Backbone(build_transformers(config.transformers, **size))
    if config.vit is None:
        name = config.backbone.removeprefix("timm:")
        return build_timm(name, drop_path=config.drop_path, **size)
    return build_sapiens(config.backbone, vit=config.vit, **size)


def build_head(config: HeadConfig, in_dim: int, num_classes: int, *, affect: bool = False) -> nn.Module:
    """Build a head with random weights.

    Args:
        config: its kind and dimensions.
        in_dim: token width of the backbone.
        num_classes: number of logits.
        affect: whether valence and arousal, before tanh, follow the logits.

    Raises:
        ValueError: if the dimensions do not fit together.
    """
    shared = {"dropout": config.dropout, "affect": affect}
    if config.kind == "linear":
        return LinearHead(in_dim, num_classes, **shared)
    if config.kind == "mlp":
        return MlpHead(in_dim, num_classes, dim=config.dim, **shared)
    if config.kind == "attention_pool":
        return AttentionPoolHead(in_dim, num_classes, num_heads=config.num_heads, **shared)
    settings = dataclasses.asdict(config)
    del settings["kind"]
    return MLDecoder(in_dim, num_classes, affect=affect, **settings)

"""MotivNet: a backbone that turns pixels into tokens, a head that turns tokens into logits.

Shape suffixes: B images, C channels or classes, H height, W width.
"""

from typing import NamedTuple

from torch import Tensor, nn

from motivnet.errors import ConfigError
from motivnet.labels import AFFECT
from motivnet.models.backbone import Backbone, build_sapiens, build_sapiens2, build_timm
from motivnet.models.config import HeadConfig, ModelConfig
from motivnet.models.heads import AttentionPoolHead, LinearHead, MlpHead
from motivnet.models.ml_decoder import MLDecoder


class Outputs(NamedTuple):
    """All that a model says of faces.

    Attributes:
        logits: of the classes, (B, C).
        affect: valence and arousal from -1 to 1, float32 (B, 2); None of a model without.
    """

    logits: Tensor
    affect: Tensor | None


class MotivNet(nn.Module):
    """Backbone and head."""

    def __init__(self, backbone: Backbone, head: nn.Module, *, affect: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.affect = affect

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Map normalised pixels (B, C, H, W) to logits (B, C)."""
        return self.outputs(pixels_BCHW).logits

    def outputs(self, pixels_BCHW: Tensor) -> Outputs:
        """Map normalised pixels (B, C, H, W) to logits, and to valence and arousal if the model has them."""
        answers_BK = self.head(self.backbone(pixels_BCHW))
        if not self.affect:
            return Outputs(answers_BK, None)
        # In half precision, tanh would be coarse near its ends.
        return Outputs(answers_BK[:, : -len(AFFECT)], answers_BK[:, -len(AFFECT) :].float().tanh())


class AllOutputs(nn.Module):
    """A model whose call gives all its outputs: for what takes a module by its call, as compilers and exporters do."""

    def __init__(self, model: MotivNet) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, pixels_BCHW: Tensor) -> Outputs:
        """Give `MotivNet.outputs`."""
        return self.model.outputs(pixels_BCHW)


def affect_names(model: MotivNet) -> set[str]:
    """Name the weights that serve valence and arousal alone: what a model without has to be extended by."""
    return {name for name in model.state_dict() if name.startswith("head.affect")}


def build_model(config: ModelConfig) -> MotivNet:
    """Build a model with random weights from its dimensions.

    Raises:
        ConfigError: if they do not fit together.
    """
    try:
        backbone = build_backbone(config)
        head = build_head(config.head, backbone.embed_dim, config.num_classes, affect=config.affect)
        return MotivNet(backbone, head, affect=config.affect)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from None


def build_backbone(config: ModelConfig) -> Backbone:
    """Build a model's backbone alone, with random weights.

    Raises:
        ValueError: if its dimensions do not fit together.
    """
    if config.vit is None:
        name = config.backbone.removeprefix("timm:")
        return build_timm(name, image_size=config.image_size, in_chans=config.in_chans, drop_path=config.drop_path)
    build = build_sapiens if config.backbone == "sapiens" else build_sapiens2
    return build(image_size=config.image_size, in_chans=config.in_chans, vit=config.vit)


def build_head(config: HeadConfig, in_dim: int, num_classes: int, *, affect: bool = False) -> nn.Module:
    """Build a head with random weights.

    Args:
        config: its kind and dimensions.
        in_dim: token width of the backbone.
        num_classes: number of logits.
        affect: whether valence and arousal, before tanh, stand behind the logits.

    Raises:
        ValueError: if the dimensions do not fit together.
    """
    if config.kind == "linear":
        return LinearHead(in_dim, num_classes, dropout=config.dropout, affect=affect)
    if config.kind == "mlp":
        return MlpHead(in_dim, num_classes, dim=config.dim, dropout=config.dropout, affect=affect)
    if config.kind == "attention_pool":
        return AttentionPoolHead(in_dim, num_classes, num_heads=config.num_heads, dropout=config.dropout, affect=affect)
    return MLDecoder(
        in_dim,
        num_classes,
        num_queries=config.num_queries,
        learnable_queries=config.learnable_queries,
        dim=config.dim,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        ff_dim=config.ff_dim,
        dropout=config.dropout,
        affect=affect,
    )

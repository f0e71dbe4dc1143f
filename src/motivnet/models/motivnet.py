"""MotivNet: a backbone that turns pixels into tokens, a head that turns tokens into logits.

Shape suffixes: B images, C channels or classes, H height, W width.
"""

from torch import Tensor, nn

from motivnet.errors import ConfigError
from motivnet.models.backbone import Backbone, build_sapiens, build_sapiens2, build_timm
from motivnet.models.config import HeadConfig, ModelConfig
from motivnet.models.heads import AttentionPoolHead, LinearHead, MlpHead
from motivnet.models.ml_decoder import MLDecoder


class MotivNet(nn.Module):
    """Backbone and head."""

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Map normalised pixels (B, C, H, W) to logits (B, C)."""
        return self.head(self.backbone(pixels_BCHW))


def build_model(config: ModelConfig) -> MotivNet:
    """Build a model with random weights from its dimensions.

    Raises:
        ConfigError: if they do not fit together.
    """
    try:
        backbone = build_backbone(config)
        return MotivNet(backbone, build_head(config.head, backbone.embed_dim, config.num_classes))
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


def build_head(config: HeadConfig, in_dim: int, num_classes: int) -> nn.Module:
    """Build a head with random weights.

    Args:
        config: its kind and dimensions.
        in_dim: token width of the backbone.
        num_classes: number of logits.

    Raises:
        ValueError: if the dimensions do not fit together.
    """
    if config.kind == "linear":
        return LinearHead(in_dim, num_classes, dropout=config.dropout)
    if config.kind == "mlp":
        return MlpHead(in_dim, num_classes, dim=config.dim, dropout=config.dropout)
    if config.kind == "attention_pool":
        return AttentionPoolHead(in_dim, num_classes, num_heads=config.num_heads, dropout=config.dropout)
    return MLDecoder(
        in_dim,
        num_classes,
        num_queries=config.num_queries,
        dim=config.dim,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        ff_dim=config.ff_dim,
        dropout=config.dropout,
    )

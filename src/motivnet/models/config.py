"""The dimensions of a model, as plain settings. Torch-free, so that a bundle can be read without torch."""

import dataclasses
from typing import Literal

from motivnet.errors import ConfigError, unknown_name

HeadKind = Literal["ml_decoder", "linear", "mlp", "attention_pool"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VitConfig:
    """A Sapiens-shaped vision transformer: pre-norm, LayerNorm eps 1e-6, exact GELU, qkv bias.

    Args:
        embed_dim: width.
        depth: number of blocks.
        num_heads: attention heads, a divisor of `embed_dim`.
        patch_size: side of a patch, in pixels.
        patch_padding: zero rows around the image before patching: 2 in Sapiens task checkpoints, 0 in pre-training.
        mlp_ratio: hidden width of the MLP over `embed_dim`.
    """

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int = 16
    patch_padding: int = 2
    mlp_ratio: float = 4.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """What turns tokens into logits.

    Args:
        kind: `ml_decoder`, or a head to compare it with.
        dim: inner width; of `ml_decoder` and `mlp`.
        num_queries: of `ml_decoder`; None asks one question a class.
        num_layers: of `ml_decoder`.
        num_heads: attention heads, of `ml_decoder` and `attention_pool`.
        ff_dim: hidden width of `ml_decoder`'s feed-forward part.
        dropout: inside the head.
    """

    kind: HeadKind = "ml_decoder"
    dim: int = 768
    num_queries: int | None = None
    num_layers: int = 1
    num_heads: int = 8
    ff_dim: int = 2048
    dropout: float = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Everything that decides the shapes of a model's weights.

    Args:
        backbone: `sapiens` for a transformer of the dimensions in `vit`, or `timm:NAME` for any timm model.
        image_size: (height, width) of the input, in pixels.
        in_chans: channels of the input.
        num_classes: number of logits.
        vit: dimensions of the `sapiens` backbone; None for timm's.
        head: what turns tokens into logits.
        drop_path: stochastic depth of a timm backbone, in training.
    """

    backbone: str
    image_size: tuple[int, int]
    in_chans: int = 3
    num_classes: int = 7
    vit: VitConfig | None = None
    head: HeadConfig = dataclasses.field(default_factory=HeadConfig)
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        """Check that the settings fit together.

        Raises:
            ConfigError: at a backbone that is neither kind, or lacks its dimensions.
        """
        if self.backbone != "sapiens" and not self.backbone.startswith("timm:"):
            raise ConfigError(f"backbone {self.backbone!r}. Allowed: sapiens, timm:NAME")
        if (self.backbone == "sapiens") != (self.vit is not None):
            raise ConfigError("vit: the dimensions of a transformer belong to backbone 'sapiens', and only to it")
        if self.vit and any(side % self.vit.patch_size for side in self.image_size):
            raise ConfigError(f"image_size {self.image_size} is not divisible by patch_size {self.vit.patch_size}")


# MotivNet's head: ML-Decoder as released, with two layers of width 1152.
MOTIVNET_HEAD = HeadConfig(dim=1152, num_layers=2)


def _sapiens(embed_dim: int, depth: int, num_heads: int) -> ModelConfig:
    vit = VitConfig(embed_dim=embed_dim, depth=depth, num_heads=num_heads)
    return ModelConfig(backbone="sapiens", image_size=(1024, 768), vit=vit, head=MOTIVNET_HEAD)


PRESETS = {
    "nano": ModelConfig(
        backbone="timm:mobilenetv2_100",
        image_size=(96, 96),
        in_chans=1,
        head=HeadConfig(dim=256, ff_dim=512),
    ),
    "motivnet-0.3b": _sapiens(1024, 24, 16),
    "motivnet-0.6b": _sapiens(1280, 32, 16),
    "motivnet-1b": _sapiens(1536, 40, 24),
    "motivnet-2b": _sapiens(1920, 48, 32),
}


def preset(name: str) -> ModelConfig:
    """Give the dimensions of a model known by name.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name not in PRESETS:
        raise ConfigError(unknown_name("model preset", name, PRESETS))
    return PRESETS[name]
